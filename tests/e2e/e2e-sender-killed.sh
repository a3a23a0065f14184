#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# kill -9 of the sender while disks are copied and while memory is: the guest runs on at the source, whole, the receiver
# undoes everything when the sender has not come back in --reconnect-for, recovery finds nothing more to do, and the next try
# moves it.
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

# recovers GUEST: then the source knows of no migration of it.
recovers() {
    on a recover && ! on a list | grep -q -w "$1"
}

test_begin
must 'host a starts' host_start a
must 'host b starts' host_start b
must 'they are paired' pair a b
must 'a guest that never leaves the disk phase' guest_busy a disks
must 'a guest that never leaves the memory phase' guest_dirty a memory
for phase in disks memory; do
    send_start a b proc:$phase --downtime "${TAIL[$phase]}" --timeout 1h --reconnect-for 2s
    must "$phase: it copies" wait_for 30 copying b
    [ "$phase" = disks ] || check 'it comes to the memory phase' wait_for 60 in_phase memory
    kill -9 "$SENDER"
    wait "$SENDER" 2> /dev/null
    check "$phase: the guest runs on at the source" guest_runs a $phase
    check "$phase: the receiver has undone everything" wait_for 40 nothing_left b
    check "$phase: the receiver still runs" listens "${PORT[b]}"
    check "$phase: the source's journal comes to its end" recovers $phase
    check "$phase: the guest is whole" on a guest verify $phase
done
check 'the next try moves it' send a b proc:memory --downtime 10s
check 'the guest is whole at the target' on b guest verify memory
test_end
