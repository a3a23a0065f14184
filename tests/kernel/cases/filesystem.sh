# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# A journaling file system writes with flags that a program cannot set: a flush before and FUA on the same bio, which
# device mapper sends down in two steps.

cat > /tmp/fill << 'END'
mount -t ext4 -o discard $1 /mnt || { dmesg | tail -n 2; exit 1; }
i=0
while [ $i -lt 60 ]; do
    i=$((i + 1))
    dd if=/dev/urandom of=/mnt/$((i % 7)) bs=9k count=$((i % 5 + 1)) conv=fsync 2> /dev/null || exit 1
    [ $((i % 10)) != 0 ] || rm /mnt/$((i % 7))
done
umount /mnt
END
for disk in /dev/fast /dev/mapper/lv; do
    /usr/sbin/mke2fs -q -t ext4 -J size=4 -F $disk
    expect 0 "ext4 on $disk" track-copy copy -x "sh /tmp/fill $disk" $disk
done
