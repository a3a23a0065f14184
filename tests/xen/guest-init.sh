# shellcheck shell=dash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The guest from its mounts on. Its configuration gives load_ram= (MiB, of 46 that are free in 128), load_dirty= and load_write= (KiB a second); load_adopt=1: see guestd.
modprobe xen-netfront
modprobe xen-blkfront
until [ -b /dev/xvda ] && [ -b /dev/xvdb ] && [ -e /sys/class/net/eth0 ]; do usleep 20000; done
ip addr add 10.9.0.101/24 dev eth0
ip link set eth0 up
echo "guest: up after $(cut -d ' ' -f 1 /proc/uptime) s"
# shellcheck disable=SC2154
/usr/bin/guestd ${load_adopt:+-a} "${load_ram:-32}" "${load_dirty:-4096}" "${load_write:-1024}" /dev/xvda /dev/xvdb
echo 'guest: guestd ended'
poweroff -f
