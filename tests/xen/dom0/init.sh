# shellcheck shell=dash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A host's dom0 from its mounts (tests/vm/functions.sh) on. The kernel gives host=a|b and address= by its command line.
# shellcheck disable=SC2154
export PATH=/usr/local/bin:/usr/lib/xen-4.17/bin:/usr/bin:/usr/sbin LVM_SUPPRESS_FD_WARNINGS=1
modprobe -a crc32c_generic ext4 xenfs xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xen-blkback xen-netback \
    virtio_pci virtio_net virtio_blk bridge loop dm-mod nbd
mount -t xenfs xenfs /proc/xen
mkdir -p /run/xen /run/xenstored /run/lock/lvm /var/log/xen/console
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
hostname "host-$host"

# The wire to the other host is eth0 below the guests' bridge, with large frames as emulation pays per frame.
# The bridge's MTU is set by hand so that a guest's smaller one does not lower it.
ip link add xenbr0 type bridge forward_delay 0
ip link set eth0 mtu 65000 master xenbr0 up
ip link set xenbr0 mtu 65000 up
ip addr add "$address/24" dev xenbr0
# The machine reaches the shell server by QEMU's user network.
ip link set eth1 up
ip addr add 10.0.2.15/24 dev eth1
start shell socat -t 86400 TCP-LISTEN:7000,fork,reuseaddr EXEC:/usr/sbin/shell-server

start xenstored xenstored -N --pid-file /run/xenstored.pid
until xenstore-exists / 2> /dev/null; do usleep 50000; done
xen-init-dom0
# As admins do: dom0 is not starved by its guests (credit2's default weight is 256).
xl sched-credit2 -d Domain-0 -w 2048
start xenconsoled xenconsoled -i --log=guest --log-dir=/var/log/xen/console

# What xmotion must not forget is on a disk of its own.
mkdir -p /var/lib/xmotion
mount -t ext4 -o noatime /dev/vdc /var/lib/xmotion

if ! vgs vg0 > /dev/null 2>&1; then
    vgcreate -q vg0 /dev/vda
    vgcreate -q vg1 /dev/vdb
fi
vgchange -q -ay > /dev/null
echo ready > /run/ready
echo "=== host $host ready after $(cut -d ' ' -f 1 /proc/uptime) s"

while :; do
    setsid cttyhack sh # a shell on the console, for "lab shell"
done
