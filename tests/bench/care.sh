#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What a guest waits for its disk while the disk is copied, without the automatic brake and with it, on a block device of this
# kernel. The guest is fio, the copy is care-copy: 4 threads, 256 KiB each, or 2 of scattered blocks. Needs root; nothing is installed.
#
#   tests/bench/care.sh [BUILD [SECONDS [DISK...]]]      default: build/dev 40 capped fast head
#
# capped  a loop device in memory that the kernel's block throttling lets have 250 reads a second
# fast    the same without the throttle
# head    a loop device over a disk that serves one request after another, 4 ms each (nbdkit behind QEMU's storage daemon): those
#         are programs, and what else this machine does makes its figures rough
# /dev/X  this one, WHICH IS WRITTEN TO
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
copy=${1:-$top/build/dev}/tests/bench/care-copy
seconds=${2:-40}
disks=("${@:3}")
[ ${#disks[@]} -gt 0 ] || disks=(capped fast head)
RAMP=12 # seconds that are not counted: two without the copy, ten of it
work=$(mktemp -d)
memory=/dev/shm/$(basename "$work")
group=
started=()
loops=()

remove_disk() {
    local one
    for one in ${loops[@]+"${loops[@]}"}; do
        losetup --detach "$one"
        # A device goes only when the last one has closed it.
        while losetup "$one" > /dev/null 2>&1; do sleep 0.1; done
    done
    for one in ${started[@]+"${started[@]}"}; do
        kill "$one" 2> /dev/null || true
        wait "$one" || true
    done
    [ -z "$group" ] || rmdir "$group"
    rm -f "$memory" "$work/nbd"
    loops=() started=() group=
}

finish() {
    remove_disk
    rm -rf --one-file-system "$work"
}
trap finish EXIT

for tool in fio losetup lsblk nbdkit qemu-storage-daemon; do
    command -v "$tool" > /dev/null || { echo "no $tool here"; exit 77; }
done
# What else this machine does must not look like the disk's doing.
renice -n -15 -p $$ > /dev/null || echo 'not the first in turn on this machine: the figures are rough'
[ -x "$copy" ] || { echo "build it first: no $copy"; exit 1; }

begin() { # LOG COMMAND...
    local log=$work/$1
    shift
    "$@" > "$log" 2>&1 &
    started=($! "${started[@]}")
}

make_loop() { # FILE DIRECT: the newest is used first and taken away first
    device=$(losetup --find --show --direct-io="$2" "$1")
    loops=("$device" ${loops[@]+"${loops[@]}"})
}

make_fast() {
    truncate -s 1G "$memory"
    make_loop "$memory" off
    make_loop "$device" on
}

make_capped() {
    local number
    make_fast
    number=$(lsblk -dno MAJ:MIN "${loops[1]}" | tr -d ' ')
    if [ -e /sys/fs/cgroup/blkio/blkio.throttle.read_iops_device ]; then
        group=/sys/fs/cgroup/blkio/$(basename "$work")
        mkdir "$group"
        echo "$number 250" > "$group/blkio.throttle.read_iops_device"
    else
        group=/sys/fs/cgroup/$(basename "$work")
        mkdir "$group"
        echo "$number riops=250" > "$group/io.max"
    fi
}

# Runs the command in the group that is throttled, if there is one.
in_group() {
    (
        [ -z "$group" ] || echo $BASHPID > "$group/cgroup.procs"
        exec "$@"
    )
}

make_head() {
    local socket=$work/nbd
    begin nbdkit nbdkit -f -U "$socket" --filter=noparallel --filter=delay memory 1G \
        rdelay=4ms wdelay=4ms serialize=requests
    until [ -S "$socket" ]; do sleep 0.1; done
    touch "$work/disk"
    begin qsd qemu-storage-daemon --blockdev "driver=nbd,node-name=n,server.type=unix,server.path=$socket" \
        --export "type=fuse,id=e,node-name=n,mountpoint=$work/disk,writable=on"
    until [ -s "$work/disk" ]; do sleep 0.1; done
    make_loop "$work/disk" on
}

# guest MODE RATE SECONDS: what fio says, in its terse form.
guest() {
    in_group fio --name=guest --filename="$device" --direct=1 --ioengine=libaio --iodepth=16 --bs=4k --rw="$1" --rate_process=poisson \
        --rate_iops="$2" --ramp_time=$RAMP --runtime="$3" --time_based --minimal 2> "$work/fio.err"
}

# figures FILE: mean and 99th percentile in ms of reads and writes together that are in the terse line.
figures() {
    awk -F';' '{
        n = ($8 > 0) + ($49 > 0)
        split($30, r, "="); split($71, w, "=")
        printf "%8.2f ms  p99 %8.2f ms", ($40 + $81) / n / 1000, (r[2] > w[2] ? r[2] : w[2]) / 1000
    }' "$1"
}

row() { # WHAT MODE RATE COPY-ARGUMENT...
    local what=$1 mode=$2 rate=$3 pid
    shift 3
    guest "$mode" "$rate" "$seconds" > "$work/terse" &
    pid=$!
    : > "$work/copy"
    if [ $# -gt 0 ]; then
        sleep 1
        in_group "$copy" -t $((seconds + RAMP - 3)) "$@" "$device" > "$work/copy"
    fi
    wait $pid
    printf '%-34s guest %s   %s\n' "$what" "$(figures "$work/terse")" "${*:+copy $(tail -n 1 "$work/copy")}"
}

rate=${XMOTION_GUEST_RATE:-60}
for disk in "${disks[@]}"; do
    device=$disk
    [[ $disk == /* ]] || "make_$disk"
    echo "-- $disk"
    for mode in randwrite randread randrw; do
        row "$mode $rate/s alone" "$mode" "$rate"
        row "$mode $rate/s, no brake" "$mode" "$rate" -n
        row "$mode $rate/s, brake" "$mode" "$rate" -j 4
        row "$mode $rate/s, blocks, no brake" "$mode" "$rate" -n -b -j 2
        row "$mode $rate/s, blocks, brake" "$mode" "$rate" -b -j 2
    done
    remove_disk
done
