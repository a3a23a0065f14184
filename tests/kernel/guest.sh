# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Runs inside the virtual machine, sourced by init and by each case (busybox sh). Every result is one line
# "RESULT pass|fail|skip CASE: text" on the console, which tests/kernel/run collects; all else is only logged.

CASE=

result() { # pass|fail|skip TEXT
    echo "RESULT $1 $CASE: $2"
}

# expect STATUS TEXT COMMAND...: the command must end with this status; its last line goes into the result.
expect() {
    wanted=$1 text=$2
    shift 2
    "$@" > /tmp/out 2>&1
    status=$?
    cat /tmp/out
    line=$(tail -n 1 /tmp/out)
    if [ "$status" = "$wanted" ]; then
        result pass "$text: $line"
    else
        result fail "$text: status $status, not $wanted: $line"
    fi
}

# expect_text STATUS PATTERN TEXT COMMAND...: and its output must have the pattern.
expect_text() {
    wanted=$1 pattern=$2 text=$3
    shift 3
    "$@" > /tmp/out 2>&1
    status=$?
    cat /tmp/out
    line=$(grep -m 1 -e "$pattern" /tmp/out)
    if [ "$status" = "$wanted" ] && [ -n "$line" ]; then
        result pass "$text: $line"
    else
        result fail "$text: status $status (not $wanted?), no \"$pattern\": $(tail -n 1 /tmp/out)"
    fi
}

# result_of STATUS TEXT: a result by the status of a command that ran before.
result_of() {
    if [ "$1" = 0 ]; then
        result pass "$2"
    else
        result fail "$2"
    fi
}

# wait_for FILE PATTERN: at most 40 s until the file has the pattern.
wait_for() {
    i=0
    until grep -q -e "$2" "$1" 2> /dev/null; do
        i=$((i + 1))
        [ $i -lt 400 ] || return 1
        usleep 100000
    done
}

# linear NAME DEVICE: a device-mapper device of two pieces of DEVICE in reverse order, so that writes across the seam
# are split, and that a block of it is not the same block of the device.
linear() {
    half=$(($(blockdev --getsz "$2") / 2))
    printf '0 %s linear %s %s\n%s %s linear %s 0\n' "$half" "$2" "$half" "$half" "$half" "$2" |
        DM_DISABLE_UDEV=1 dmsetup create "$1"
}

# Emulated processors may run kernel code while it is patched, and die of it ("Oops: int3"; QEMU's fault). A tracepoint
# is patched when its first and its second user come and go: two that never go keep it as it is. They record nothing.
keep_tracepoints() {
    mount -t tracefs tracefs /sys/kernel/tracing || return
    for instance in first second; do
        mkdir "/sys/kernel/tracing/instances/$instance"
        echo 0 > "/sys/kernel/tracing/instances/$instance/tracing_on"
        for event in block_rq_complete block_rq_issue block_bio_queue block_bio_complete; do
            echo 1 > "/sys/kernel/tracing/instances/$instance/events/block/$event/enable"
        done
    done
}

# The disks: fast, slow (250 writes a second), parts and below are virtio, and nvme is what it says.
setup_disks() {
    for module in virtio_pci virtio_blk nvme loop dm-mod; do
        modprobe "$module" || echo "no module $module"
    done
    sleep 1
    ln -s /dev/vda /dev/fast
    ln -s /dev/vdb /dev/slow
    ln -s /dev/vdc /dev/parts
    ln -s /dev/nvme0n1 /dev/nvme
    truncate -s 64M /tmp/loop.img
    losetup /dev/loop0 /tmp/loop.img
    linear lv /dev/vdd
    linear slow-lv /dev/vdb
}

run_cases() { # NAME...
    for CASE; do
        echo "CASE $CASE at $(cut -d. -f1 /proc/uptime) s"
        # shellcheck disable=SC1090
        (. "/tests/cases/$CASE.sh") || result fail "the case itself failed"
    done
    echo "DONE at $(cut -d. -f1 /proc/uptime) s"
}
