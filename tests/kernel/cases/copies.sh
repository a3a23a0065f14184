# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copies of live disks of every class: identical at the stop, nothing marked that was not written, the audit equal.
# Fifty rounds, eight of them on a disk that ends a write long after it began.

copies() { # ROUNDS TEXT ARGUMENT...
    rounds=$1 text=$2
    shift 2
    track-copy copy -r "$rounds" "$@" > /tmp/out 2>&1
    status=$?
    cat /tmp/out
    totals=$(awk '
        / round / {
            rounds++
            writes += $4; marked += $12; differ += $14; missing += $16; extra += $18
            equal += /audit equal/
        }
        END {
            printf "%d rounds, %d writes, %d marked, %d differ, %d missing, %d extra, audit equal %d times",
                rounds, writes, marked, differ, missing, extra, equal
        }' /tmp/out)
    [ $status = 0 ] ||
        totals="$totals: $(grep -v ' 0 failed, .* 0 differ, 0 missing, 0 extra, audit equal$' /tmp/out | tail -n 1)"
    result_of $status "$text: $totals"
}

copies 10 'loop device' /dev/loop0
copies 8 'virtio disk' /dev/fast
copies 6 'NVMe disk' /dev/nvme
copies 2 'NVMe disk, eight more threads of discards' -d 8 /dev/nvme
copies 8 'partition, its neighbour written too' -n /dev/vdc2 /dev/vdc1
copies 8 'LV' /dev/mapper/lv
copies 4 'virtio disk of 250 writes/s' -t 2000 /dev/slow
copies 4 'LV on it' -t 2000 /dev/mapper/slow-lv
