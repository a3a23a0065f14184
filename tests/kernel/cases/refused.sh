# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# What cannot be tracked is refused, with the reason.

truncate -s 1M /tmp/file
expect_text 2 'not a block device' 'a file' track-copy track /tmp/file
expect_text 2 'No such file' 'nothing' track-copy track /dev/nothing
echo 0 > /sys/block/vda/queue/iostats
expect_text 2 'keeps no counters' 'a disk without counters' track-copy track /dev/fast
echo 1 > /sys/block/vda/queue/iostats
expect_text 2 'the device is empty' 'an empty device' track-copy track /dev/loop7
chmod 666 /dev/vda
echo 'nobody:x:65534:65534::/:/bin/sh' >> /etc/passwd
expect_text 2 'needs root' 'without privileges' su -s /bin/sh nobody -c 'track-copy track /dev/fast'
