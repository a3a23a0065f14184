#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# kill -9 of the receiver while disks are copied and while memory is. When it does not come back in --reconnect-for, the sender
# says so with exit code 1, the guest runs on at the source, whole, and the receiver leaves nothing of the try when it is back at
# last. When it comes back in time, the move goes on.
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

test_begin
must 'host a starts' host_start a
must 'host b starts' host_start b
must 'they are paired' pair a b
must 'a guest that never leaves the disk phase' guest_busy a disks
must 'a guest that never leaves the memory phase' guest_dirty a memory
for phase in disks memory; do
    send_start a b proc:$phase --downtime "${TAIL[$phase]}" --timeout 1h --reconnect-for 2s
    must "$phase: it copies" wait_for 30 copying b
    check "it comes to the phase $phase" wait_for 60 in_phase $phase
    kill -9 "${RECEIVER[b]}"
    wait "${RECEIVER[b]}" 2> /dev/null
    check "$phase: the sender ends" ends 45 "$SENDER"
    check "$phase: with exit code 1" exits 1 "$SENDER"
    check "$phase: the result says failed" result_is outcome failed
    check "$phase: the guest runs on at the source" guest_runs a $phase
    must "$phase: the receiver is back" receiver_start b
    check "$phase: it has undone everything" wait_for 20 nothing_left b
    check "$phase: the guest is whole" on a guest verify $phase
done
send_start a b proc:disks --downtime 1ms --timeout 20s --on-timeout stop --reconnect-for 1m
must 'once more: it copies' wait_for 30 copying b
sleep 1
kill -9 "${RECEIVER[b]}"
wait "${RECEIVER[b]}" 2> /dev/null
must 'the receiver is back at once' receiver_start b
check 'the sender ends' ends 60 "$SENDER"
check 'and has moved it' exits 0 "$SENDER"
check 'the guest is whole at the target' on b guest verify disks
check 'the next try moves it' send a b proc:memory --downtime 10s
check 'the guest is whole at the target' on b guest verify memory
test_end
