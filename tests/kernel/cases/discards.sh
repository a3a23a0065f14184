# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# An NVMe disk takes discards of several ranges in one command. Where requests wait for their turn (here: a queue of one
# command, and slow writes in it), the scheduler merges discards into requests whose bios do not follow one another.

nvme_with() { # [MODULE-OPTION]
    modprobe -r nvme
    modprobe nvme "$@"
    sleep 1
    link_nvme
}

nvme_with io_queue_depth=2
disk=$(readlink /dev/nvme-slow)
echo mq-deadline > "/sys/block/${disk##*/}/queue/scheduler"
echo 64 > "/sys/block/${disk##*/}/queue/nr_requests"
dd if=/dev/urandom of=/dev/nvme-slow bs=1M oflag=direct 2> /dev/null
expect 0 'eight threads of discards' track-copy copy -d 8 -r 2 -t 2000 /dev/nvme-slow
merged=$(awk '{ print $13 }' "/sys/block/${disk##*/}/stat")
if [ "$merged" -gt 0 ]; then
    result pass "$merged discards were merged"
else
    result skip 'the kernel merged no discards'
fi
nvme_with
