#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# tests/bench/scattered on disks that take 0.1 ms and 1 ms for each request, and any number at once: null_blk of Debian's kernel in a
# QEMU machine of two processors, as in tests/kernel. Emulated processors are slow: what matters there is the waiting.
#
#   tests/bench/scattered.sh [BUILD]      default: build/plain
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/vm/functions.sh
. "$here/../vm/functions.sh"
TREE=$VM_WORK/packages
ROOT=$VM_WORK/scattered/root
IMAGE=$VM_WORK/scattered/image.cpio.zst

vm_need qemu-system-x86_64:qemu-system-x86 cpio:cpio zstd:zstd depmod:kmod
vm_fetch "$TREE" busybox-static "$(vm_kernel_package)"
vm_root "$ROOT" "$TREE"
cp "${1:-$VM_TOP/build/plain}/tests/bench/scattered" "$ROOT/usr/bin/"
vm_libraries "$ROOT" "$TREE"
vm_modules "$ROOT" "$TREE" null_blk
vm_init "$ROOT" << 'INIT'
# disk NAME NANOSECONDS: of 64 MiB
disk() {
    mkdir "/sys/kernel/config/nullb/$1" && cd "/sys/kernel/config/nullb/$1" || return
    echo 64 > size; echo 1 > memory_backed; echo 2 > queue_mode; echo 2 > irqmode
    echo "$2" > completion_nsec; echo 256 > hw_queue_depth; echo 1 > power
    cd /
}
modprobe null_blk nr_devices=0
mount -t configfs none /sys/kernel/config
disk a 100000; disk b 1000000
for disk in a b; do
    echo "-- $(cat /sys/kernel/config/nullb/$disk/completion_nsec) ns"
    scattered /dev/$disk
    scattered -w /dev/$disk
done
poweroff -f
INIT
vm_pack "$ROOT" "$IMAGE"
timeout 600 "${VM_QEMU[@]}" -smp 2 -m 1024 -kernel "$(vm_kernel "$TREE")" -initrd "$IMAGE" \
    -append 'console=ttyS0 mitigations=off loglevel=1 panic=-1' < /dev/null | tr -d '\r'
