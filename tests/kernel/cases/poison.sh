# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Whatever may have lost a mark is reported, can be reset, and does not disturb who writes.

# poisoned TEXT PATTERN DISK OPTIONS: the tracker reports PATTERN while a writer goes on.
poisoned() {
    track-copy write -t 6000 "$3" > /tmp/writer 2>&1 &
    writer=$!
    XMOTION_TEST_TRACKER=$4 expect_text 3 "$2" "$1" track-copy track -t 20000 "$3"
    wait $writer
    result_of $? "$1, the writer: $(cat /tmp/writer)"
}

poisoned 'overflowing map of bios' 'more writes were in flight' /dev/mapper/lv overflow=4
for disk in /dev/fast /dev/mapper/lv; do
    export XMOTION_TEST_TRACKER=audit
    expect_text 3 'audit not equal: .* lacks [1-9]' "audit made to mismatch, $disk" track-copy copy $disk
    unset XMOTION_TEST_TRACKER
done

# once_tracking DISK COMMAND...: runs the command when the tracker of the expect_text that follows has begun.
once_tracking() {
    disk=$1
    shift
    rm -f /tmp/out
    (wait_for /tmp/out "$disk: tracking" && "$@") &
}

once_tracking /dev/nvme track-copy passthrough /dev/nvme
expect_text 3 'passed through' 'passthrough command' track-copy track -t 10000 /dev/nvme
wait

grow() {
    truncate -s 65M /tmp/small.img && losetup -c /dev/loop1 &&
        dd if=/dev/zero of=/dev/loop1 bs=4k seek=16384 count=1 conv=notrunc,fsync
}

truncate -s 64M /tmp/small.img && losetup /dev/loop1 /tmp/small.img
once_tracking /dev/loop1 grow
expect_text 3 'has grown' 'disk that grows' track-copy track -t 10000 /dev/loop1
wait
losetup -d /dev/loop1
