#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A switchover whose answer never came: nothing is started by itself, xmotion list shows it as undecided with the two commands that a
# person can choose from, each of them works, and the peer settles it as soon as it can be asked again.
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

# undecided WHAT: the sender is stopped before it sends GO; then the link is cut at once (WHAT is "lost"), or when the guest runs at
# the target and nobody could say so ("sent"). The sender asks, and gives that up with exit code 5.
undecided() {
    XMOTION_FAULT=source.aside=stop send_start a b proc:g --reconnect-for 1s
    wait_for 30 stopped "$SENDER" || return
    [ "$1" = lost ] || link b stall down
    [ "$1" = sent ] || link b cut
    kill -CONT "$SENDER"
    [ "$1" = lost ] || wait_for 10 guest_here b g || return
    link b cut
    link b flow
    exits 5 "$SENDER" && result_is guest_is_at unknown
}

session() {
    python3 -c 'import json, sys
jobs = [j for j in json.load(sys.stdin) if j["guest"] == "g"]
print(jobs[0]["id"])' < <(on a list --json)
}

# offers_both: list names the migration and both commands.
offers_both() {
    local text id
    text=$(on a list)
    id=$(session)
    echo "$text"
    grep -q -i undecided <<< "$text" && grep -q "recover ${id:0:8}[0-9a-f]* --guest-is-here" <<< "$text" &&
        grep -q "recover ${id:0:8}[0-9a-f]* --guest-is-there" <<< "$text"
}

settled() {
    ! on a list | grep -q -w g && ! on b list | grep -q -w g && [ -z "$(find "$WORK"/?/state/outgoing "$WORK"/?/state/incoming -type f 2> /dev/null)" ]
}

# still_undecided: recovery without an answer starts nothing.
still_undecided() {
    on a recover > "$WORK/recover.log" 2>&1
    guest_away a g && offers_both
}

recovers() {
    on b recover && on a recover && settled
}

# again HOST: the guest ends there, another is made at a.
again() {
    on "$1" guest destroy g && rm -f "$WORK"/a/sr/* "$WORK"/b/sr/* && link b back > /dev/null && guest_again
}

guest_again() {
    guest_start a g --memory 32M --disk "$WORK/a/sr/g.img:32M" --dirty-rate 4M --write-rate 1M
}

# only HOST: it runs there, whole, and nothing of it is at the other one.
only() {
    local other=a
    [ "$1" = a ] && other=b
    guest_runs "$1" g && on "$1" guest verify g && guest_away $other g && guest_away $other g--moved && guest_away $other g--incoming
}

# marked HOST FILE: --reuse takes it without its name.
marked() {
    python3 -c 'import os, sys; sys.exit("user.xmotion.left" not in os.listxattr(sys.argv[1]))' "$WORK/$1/sr/$2"
}

test_begin
needs_fault_points
has_option send --reconnect-for || skip 'this xmotion does not recover'
must 'host a starts' host_start a
must 'host b starts' host_start b
must 'the link is there' link_start b
must 'they are paired' pair a b
must 'the guest runs' guest_again

must 'GO is sent and no answer comes' undecided sent
check 'list shows it with both commands' offers_both
check 'recover without the peer decides nothing' still_undecided
check 'the guest runs at the target meanwhile' guest_runs b g
link b back > /dev/null
check 'asked again, the peer settles it' recovers
check 'exactly one guest' only b

check 'the disk that it left is known as its old copy' marked a g.img
must 'another guest' again b
must 'undecided again' undecided sent
check 'a person says that it is there' on a recover "$(session)" --guest-is-there
check 'the source lets it go' guest_away a g--moved
link b back > /dev/null
check 'both ends agree later' recovers
check 'exactly one guest at the target' only b

must 'a third guest' again b
must 'GO is lost' undecided lost
check 'list shows it' offers_both
check 'nothing runs at the target' guest_away b g
check 'a person says that it is here' on a recover "$(session)" --guest-is-here
check 'it runs on here at once' guest_runs a g
link b back > /dev/null
check 'both ends agree on that too' wait_for 20 recovers
check 'exactly one guest at the source' only a
check 'nothing is left at the target' wait_for 10 nothing_left b

must 'GO is lost once more' undecided lost
link b back > /dev/null
kill "${RECEIVER[a]}"
wait "${RECEIVER[a]}" 2> /dev/null
must 'a receiver that starts' receiver_start a
check 'recovers what it finds' wait_for 20 guest_runs a g
check 'nothing is undecided' wait_for 20 settled
check 'and moves when asked again' send a b proc:g
check 'the guest is whole' on b guest verify g
test_end
