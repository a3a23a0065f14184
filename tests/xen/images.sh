# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What "lab build" makes in the work folder, sourced by lab: the packages, both hypervisors, the guest's
# initramfs and dom0's, which is the same for both hosts, and xmotion as an addition to it.

XEN_DIR=$VM_TOP/tests/xen
PACKAGES=$VM_WORK/packages
DOM0=$VM_WORK/dom0
GUEST=$VM_WORK/guest
OVERLAY=$VM_WORK/xmotion
# The meson build folder whose xmotion goes into dom0. Without one the lab is built without xmotion.
XMOTION_BUILD=${XMOTION_BUILD:-$VM_TOP/build}
# One with -Dfault_points=true: its xmotion is /usr/lib/xmotion-faults/xmotion in dom0.
XMOTION_FAULT_BUILD=${XMOTION_FAULT_BUILD:-$VM_TOP/build/faults}

XEN_PACKAGES=(xen-hypervisor-4.17-amd64 xen-utils-4.17 xen-utils-common xenstore-utils libxencall1
    libxendevicemodel1 libxenevtchn1 libxenforeignmemory1 libxengnttab1 libxenhypfs1 libxenmisc4.17 libxenstore4
    libxentoolcore1 libxentoollog1 libyajl2 libnl-3-200 libnl-route-3-200 libfdt1 libargon2-1)
DOM0_PACKAGES=(bash coreutils util-linux mount lvm2 dmsetup libdevmapper1.02.1 libdevmapper-event1.02.1 libaio1 libedit2
    libbsd0 libmd0 iproute2 libbpf1 libelf1 libmnl0 libxtables12 socat libssl3 libwrap0 libreadline8)
DOM0_MODULES=(xen-blkback xen-netback xen-gntdev xen-gntalloc xen-evtchn xenfs xen-privcmd virtio_net virtio_blk
    virtio_pci nbd dm-mod loop bridge tls ext4 crc32c_generic)

build_tools() {
    vm_need qemu-system-x86_64:qemu-system-x86 cpio:cpio zstd:zstd depmod:kmod socat:socat gcc:gcc make:make mkfs.ext4:e2fsprogs
}

build_packages() {
    local kernel
    for kernel in "$PACKAGES"/.have/linux-image-*; do :; done
    [ -e "$kernel" ] || kernel=$(vm_kernel_package) || return
    vm_fetch "$PACKAGES" busybox-static "${kernel##*/}" "${XEN_PACKAGES[@]}" "${DOM0_PACKAGES[@]}"
}

build_hypervisors() {
    local version
    [ -e "$VM_WORK/xen-stock" ] || zcat "$PACKAGES/boot/xen-4.17-amd64.gz" > "$VM_WORK/xen-stock"
    [ -e "$VM_WORK/xen-shadow" ] && return
    version=$(dpkg-deb -f "$VM_WORK"/debs/xen-hypervisor-4.17-amd64_*.deb Version) &&
        hypervisor_shadow "$VM_WORK/xen-source" "$version" "$VM_WORK/xen-shadow"
}

# compile FILE.c PROGRAM [SOURCE.c...]: a static program.
compile() {
    gcc -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -static -pthread -I "$VM_TOP/src" -o "$2" "$1" "${@:3}"
}

build_guest() {
    vm_root "$GUEST" "$PACKAGES" &&
        vm_modules "$GUEST" "$PACKAGES" xen-blkfront xen-netfront &&
        compile "$XEN_DIR/guestd.c" "$GUEST/usr/bin/guestd" "$VM_TOP"/src/hv/guest-load*.c &&
        vm_init "$GUEST" < "$XEN_DIR/guest-init.sh" &&
        vm_pack "$GUEST" "$VM_WORK/guest.cpio.zst"
}

build_dom0() {
    local xen=$PACKAGES/usr/lib/xen-4.17
    vm_root "$DOM0" "$PACKAGES" || return
    mkdir -p "$DOM0"/{guest,etc/lvm,usr/lib/xen-4.17,var/lib/xen,var/log/xen} || return
    cp -a "$xen/bin" "$xen/boot" "$DOM0/usr/lib/xen-4.17/" &&
        rm "$DOM0"/usr/lib/xen-4.17/{boot/xen-shim,bin/oxenstored} && # large, and not used here
        vm_copy "$DOM0" "$PACKAGES" /etc/xen /bin/bash /usr/bin/{flock,stat,dd,sha256sum,setsid,xenstore} \
            /sbin/{lvm,dmsetup,losetup,blockdev,blkdiscard,ip,bridge} /usr/bin/socat || return
    rm -f "$DOM0"/usr/bin/{losetup,blockdev,blkdiscard,ip} # busybox's, found before those in /usr/sbin
    link_names "$DOM0/usr/sbin" lvm {vg,pv}{create,remove,change,scan} {vg,pv,lv}s lv{create,remove,change,rename,extend,scan}
    link_names "$DOM0/usr/bin" xenstore xenstore-{read,write,rm,list,ls,exists,chmod,watch}
    ln -s ../lib/xen-4.17/bin/xl "$DOM0/usr/sbin/xl"
    cp "$XEN_DIR/dom0/lvm.conf" "$DOM0/etc/lvm/" && cp "$XEN_DIR"/dom0/{start,ask,shell-server} "$DOM0/usr/sbin/" &&
        chmod 755 "$DOM0"/usr/sbin/{start,ask,shell-server} &&
        cp "$XEN_DIR/dom0/vm1.cfg" "$VM_WORK/guest.cpio.zst" "$DOM0/guest/" &&
        cp "$(vm_kernel "$PACKAGES")" "$DOM0/guest/vmlinuz" &&
        compile "$XEN_DIR/heartbeat.c" "$DOM0/usr/bin/heartbeat" &&
        vm_libraries "$DOM0" "$PACKAGES" && vm_modules "$DOM0" "$PACKAGES" "${DOM0_MODULES[@]}" &&
        vm_init "$DOM0" < "$XEN_DIR/dom0/init.sh" && vm_pack "$DOM0" "$VM_WORK/dom0.cpio.zst"
}

# link_names DIR PROGRAM NAME...: names of one program with several.
link_names() {
    local dir=$1 program=$2 name
    for name in "${@:3}"; do
        ln -sf "$program" "$dir/$name"
    done
}

# build_xmotion: xmotion as its build installs it, with the libraries that dom0 lacks.
build_xmotion() {
    local lib
    rm -rf "$OVERLAY" && mkdir -p "$OVERLAY"/usr/{lib64,"lib/$VM_TRIPLE"} || return
    if [ -e "$XMOTION_BUILD/build.ninja" ]; then
        DESTDIR=$OVERLAY meson install -C "$XMOTION_BUILD" --quiet --no-rebuild && build_xmotion_faults && vm_libraries "$OVERLAY" "$PACKAGES" ||
            return
        for lib in "$OVERLAY/usr/lib/$VM_TRIPLE"/*.so* "$OVERLAY"/usr/lib64/*; do
            [ ! -e "$DOM0/${lib#"$OVERLAY/"}" ] || rm -f "$lib"
        done
    fi
    vm_pack "$OVERLAY" "$VM_WORK/xmotion.cpio.zst" &&
        cat "$VM_WORK/dom0.cpio.zst" "$VM_WORK/xmotion.cpio.zst" > "$VM_WORK/host.cpio.zst"
}

build_xmotion_faults() {
    [ -e "$XMOTION_FAULT_BUILD/src/cli/xmotion" ] || return 0
    install -D "$XMOTION_FAULT_BUILD/src/cli/xmotion" "$OVERLAY/usr/lib/xmotion-faults/xmotion"
}

# images_current: whether the images are newer than what they are made of.
images_current() {
    [ -e "$VM_WORK/dom0.cpio.zst" ] && [ -e "$VM_WORK/xen-shadow" ] &&
        [ -z "$(find "$XEN_DIR"/{dom0,*.c,guest-init.sh,images.sh} "$VM_TOP/tests/vm" "$VM_TOP"/src/hv/guest-* \
            -newer "$VM_WORK/dom0.cpio.zst" -print -quit)" ]
}

build_all() {
    local step
    for step in build_tools build_packages build_hypervisors build_guest build_dom0; do
        SECONDS=0
        "$step" || vm_error "$step failed" || return
        echo "${step#build_}: $SECONDS s"
    done
}
