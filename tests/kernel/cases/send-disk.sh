# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# The whole engine on a live disk without a guest: `xmotion send disk:` from one process to another over loopback. A copy
# that ends well is identical; whatever may have lost a mark ends the move before it, and the writer goes on.

A="env XMOTION_STATE_DIR=/tmp/a XMOTION_RUN_DIR=/tmp/run-a"
B="env XMOTION_STATE_DIR=/tmp/b XMOTION_RUN_DIR=/tmp/run-b"
ip link set lo up
truncate -s 64M /tmp/target.img
losetup /dev/loop2 /tmp/target.img
$B xmotion recv --listen 127.0.0.1:7799 --allow-disk /dev/loop2 > /tmp/recv.log 2>&1 &
receiver=$!
wait_for /tmp/recv.log listening || result fail "the receiver: $(cat /tmp/recv.log)"
$B xmotion authorize "$($A xmotion identity)"
$A xmotion trust 127.0.0.1:7799

# begin_writer DISK; writer_goes_on: it was let go again and still writes.
begin_writer() {
    track-copy write -t 800000 "$1" > /tmp/writer 2>&1 &
    echo $! > /tmp/writer.pid
}

writes() {
    awk '{ print $7 }' "/sys/dev/block/$((0x$(stat -L -c %t "$1"))):$((0x$(stat -L -c %T "$1")))/stat"
}

writer_goes_on() {
    before=$(writes "$1")
    sleep 2
    after=$(writes "$1")
    [ "$after" -gt "$before" ]
    result_of $? "$2, the writer goes on: $before sectors, then $after $(cat /tmp/writer)"
    kill -9 "$(cat /tmp/writer.pid)"
}

# shellcheck disable=SC2016 # those shells expand it
# send DISK OPTION...: the writer stands still for the last pass, and is let go whatever comes of it. Without the brake: here the
# writer's latency is that of emulated processors, which the copy always shares.
send() {
    disk=$1
    shift
    $A xmotion send "disk:$disk" 127.0.0.1:7799 --disk "$(basename "$disk")=/dev/loop2" --json \
        --no-brake --stop-command 'kill -STOP $(cat /tmp/writer.pid); sleep 1' --downtime 10s \
        --go-command 'echo $XMOTION_OUTCOME > /tmp/outcome; cmp "$DISK" /dev/loop2 > /tmp/cmp 2>&1; echo $? > /tmp/cmp.status; kill -CONT $(cat /tmp/writer.pid)' "$@"
}

for DISK in /dev/fast /dev/mapper/lv; do
    export DISK
    begin_writer $DISK
    expect_text 0 '"outcome":"moved"' "$DISK under writes moves" send $DISK
    [ "$(cat /tmp/outcome) $(cat /tmp/cmp.status)" = 'moved 0' ]
    result_of $? "$DISK: outcome $(cat /tmp/outcome), the copy at the stop is the disk $(cat /tmp/cmp)"
    writer_goes_on $DISK moved
done

DISK=/dev/fast
begin_writer $DISK
XMOTION_TEST_TRACKER=audit expect_text 1 'the tracker lacks [1-9]' 'an audit made to mismatch ends the move' send $DISK
[ "$(cat /tmp/outcome)" = failed ]
result_of $? "audit: --go-command was told $(cat /tmp/outcome)"
writer_goes_on $DISK audit

DISK=/dev/mapper/lv
begin_writer $DISK
XMOTION_TEST_TRACKER=overflow=1 expect_text 1 'more writes were in flight' 'an overflowing map ends the move' send $DISK
writer_goes_on $DISK overflow

DISK=/dev/slow
begin_writer $DISK
rm -f /tmp/outcome
send $DISK --downtime 1ms > /tmp/send.log 2>&1 &
wait_for /tmp/send.log '"phase":"disks"'
sleep 2
kill -9 "$(pidof xmotion | tr ' ' '\n' | grep -v -x $receiver | head -n 1)"
wait_for /tmp/recv.log failed
result_of $? "the sender is killed; the receiver: $(tail -n 1 /tmp/recv.log)"
[ ! -e /tmp/outcome ]
result_of $? 'killed: no switchover'
writer_goes_on $DISK killed

kill $receiver
wait $receiver
losetup -d /dev/loop2
