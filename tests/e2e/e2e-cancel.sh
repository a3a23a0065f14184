#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A migration that would not converge is cancelled by its guest's name, by its id, by Ctrl-C, and at the target: each takes
# effect at once (within a second on a quiet machine: the figures are printed), and undoes everything.
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

# The id, or a beginning of it, stands in list.
cancel_by_id() {
    on a cancel "$(on a list | grep -o -m 1 -w '[0-9a-f]\{8,32\}')"
}

cancel_refused() {
    ! on a cancel g
}

cancel_by_signal() {
    kill -INT "$SENDER"
}

# ended_within MS: the sender ends so soon after the moment in BEGUN.
ended_within() {
    TOOK=$((($(date +%s%N) - BEGUN) / 1000000))
    ends 10 "$SENDER" || return
    TOOK=$((($(date +%s%N) - BEGUN) / 1000000))
    [ $TOOK -le "$1" ]
}

test_begin
must 'host a starts' host_start a
must 'host b starts' host_start b
must 'they are paired' pair a b
must 'the guest runs' guest_busy a g
for way in 'on a cancel g' cancel_by_id cancel_by_signal 'on b cancel g'; do
    send_start a b proc:g --downtime 1ms --timeout 1h
    must "$way: it copies" wait_for 30 copying b
    sleep 1
    BEGUN=$(date +%s%N)
    # shellcheck disable=SC2086
    check "$way: it is taken" $way
    check "$way: the sender ends soon" ended_within $((1000 * ${XMOTION_PATIENCE:-5}))
    echo "# after $TOOK ms"
    if [ "$way" = 'on b cancel g' ]; then
        check "$way: the sender says that its peer did it" exits 1 "$SENDER"
    else
        check "$way: with exit code 4" exits 4 "$SENDER"
        check "$way: the result says cancelled" result_is outcome cancelled
    fi
    check "$way: nothing is left at the target" wait_for 10 nothing_left b
    check "$way: the guest runs on" guest_runs a g
done
check 'the guest is whole' on a guest verify g
check 'a second cancel finds nothing' cancel_refused
test_end
