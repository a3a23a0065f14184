#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Whether it would pay that the kernel encrypts what is sent: docs/performance.md has the figures. Three answers:
#   1. AES-GCM of Debian's kernel and of OpenSSL on this processor, whatever kernel runs here (kernel-gcm.c)
#   2. what sending costs on this kernel (ktls.c); with its TLS where it has the module
#   3. the same on Debian's kernel in a QEMU machine that counts instructions: one processor, a nanosecond of its clock is an
#      instruction. So "s/GiB" are thousands of millions of instructions, the same in every run; "wall" is all there were.
#
#   tests/bench/ktls.sh [BUILD]      default: build/plain; takes a few minutes; packages are kept as by tests/kernel/run
#
# The emulated processor has no `rep movsb`, which would count as an instruction an octet.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/vm/functions.sh
. "$here/../vm/functions.sh"

BUILD=${1:-$VM_TOP/build/plain}
TREE=$VM_WORK/packages
WORK=$VM_WORK/ktls
ROOT=$WORK/root
LIMIT=600
QEMU=(qemu-system-x86_64 -accel 'tcg,thread=single' -icount 'shift=0,sleep=off' -machine q35 -smp 1 -m 512
    -cpu 'max,-smap,-la57,-erms,-fsrm' -nodefaults -no-user-config -no-reboot -display none -serial stdio)

# The kernel's functions are linked as they are; what else of the kernel they name is never called.
build_gcm() {
    local module
    module=$(echo "$TREE"/lib/modules/*/kernel/arch/x86/crypto/aesni-intel.ko)
    cp "$module" "$WORK/aesni-intel.o"
    gcc -O2 -maes -no-pie -o "$WORK/kernel-gcm" "$here/kernel-gcm.c" "$WORK/aesni-intel.o" -lcrypto \
        -Wl,--unresolved-symbols=ignore-all
}

build_image() {
    vm_root "$ROOT" "$TREE" && cp "$BUILD/tests/bench/ktls" "$WORK/kernel-gcm" "$ROOT/usr/bin/" &&
        vm_libraries "$ROOT" "$TREE" && vm_modules "$ROOT" "$TREE" tls aesni_intel gcm &&
        vm_init "$ROOT" <<< 'modprobe aesni_intel; modprobe tls; kernel-gcm 4; ktls 32 3; grep TlsTxSw /proc/net/tls_stat; poweroff -f' &&
        vm_pack "$ROOT" "$WORK/image.cpio.zst"
}

boot() {
    timeout "$LIMIT" "${QEMU[@]}" -kernel "$(vm_kernel "$TREE")" -initrd "$WORK/image.cpio.zst" \
        -append 'console=ttyS0 mitigations=off loglevel=1 panic=-1' < /dev/null 2>&1 | sed 's/\r//g' | tee "$WORK/console.log"
}

[ -x "$BUILD/tests/bench/ktls" ] || { echo "build it first: no $BUILD/tests/bench/ktls" >&2; exit 1; }
mkdir -p "$WORK"
vm_need qemu-system-x86_64:qemu-system-x86 cpio:cpio zstd:zstd depmod:kmod
vm_fetch "$TREE" busybox-static libssl3 "$(vm_kernel_package)"
build_gcm
echo '-- AES-128-GCM, this processor'
"$WORK/kernel-gcm"
echo "-- sending, this machine's kernel $(uname -r)"
"$BUILD/tests/bench/ktls"
build_image
echo "-- both on Debian's kernel $(vm_kernel_version "$TREE"), instructions of an emulated processor"
boot
grep -q '^TlsTxSw.*[1-9]' "$WORK/console.log"
