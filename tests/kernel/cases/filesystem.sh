# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Journaling file systems write what a program cannot: a flush before and FUA on the same bio, which device mapper sends
# down in two steps; and XFS discards many extents at once, which an NVMe disk takes as one request of bios that do not
# follow one another on the disk.

cat > /tmp/fill << 'END'
mount -t $1 -o discard $2 /mnt || { dmesg | tail -n 2; exit 1; }
i=0
while [ $i -lt 60 ]; do
    i=$((i + 1))
    dd if=/dev/urandom of=/mnt/$((i % 23)) bs=9k count=$((i % 5 + 1)) conv=fsync 2> /dev/null || exit 1
    [ $((i % 20)) != 0 ] || { rm /mnt/*[02468] && sync; }
done
umount /mnt
END

# Small file systems are for xfstests only; these names of its make mkfs.xfs believe in one.
export TEST_DIR=/mnt TEST_DEV=/dev/nvme QA_CHECK_FS=1

copy_of() { # TYPE DISK
    expect 0 "$1 on $2" track-copy copy -x "sh /tmp/fill $1 $2" "$2"
}

/usr/sbin/mke2fs -q -t ext4 -J size=4 -F /dev/fast && copy_of ext4 /dev/fast
/usr/sbin/mke2fs -q -t ext4 -J size=4 -F /dev/mapper/lv && copy_of ext4 /dev/mapper/lv
mkfs.xfs -q -f /dev/nvme # discards the whole disk: counted from here on
before=$(awk '{ print $13 }' /sys/block/nvme0n1/stat)
copy_of xfs /dev/nvme
merged=$(($(awk '{ print $13 }' /sys/block/nvme0n1/stat) - before))
[ $merged -gt 0 ]
result_of $? "$merged discards of XFS were merged"
