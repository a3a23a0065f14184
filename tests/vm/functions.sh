# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Images of small virtual machines from Debian packages, to be sourced by bash scripts (tests/xen/lab,
# tests/kernel). Packages are unpacked into a work folder, never installed: the machine itself gets only
# the tools that vm_need names. A typical caller:
#
#     . "$top/tests/vm/functions.sh"
#     vm_need qemu-system-x86_64:qemu-system-x86 cpio:cpio zstd:zstd depmod:kmod
#     vm_fetch "$VM_WORK/packages" busybox-static "$(vm_kernel_package)" fio libaio1
#     vm_root "$root" "$VM_WORK/packages"             # an empty root with busybox
#     vm_copy "$root" "$VM_WORK/packages" /usr/bin/fio
#     vm_modules "$root" "$VM_WORK/packages" virtio_pci virtio_blk loop dm-mod
#     vm_libraries "$root" "$VM_WORK/packages"        # after the last program went in
#     vm_init "$root" <<'INIT'                        # what runs after the usual mounts
#     modprobe virtio_pci; modprobe virtio_blk; /tests/all; poweroff -f
#     INIT
#     vm_pack "$root" "$VM_WORK/image.cpio.zst"
#     "${VM_QEMU[@]}" -smp 2 -m 1024 -kernel "$(vm_kernel "$VM_WORK/packages")" \
#         -initrd "$VM_WORK/image.cpio.zst" -append 'console=ttyS0 mitigations=off quiet'
#
# Every function returns non-zero, after a line on stderr, when it could not do its work.

VM_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# All of it is a cache and may be removed at any time when nothing runs.
VM_WORK=${XMOTION_LAB:-$VM_TOP/build/lab}
VM_TRIPLE=x86_64-linux-gnu

# QEMU without hardware virtualisation, as Linux and also Xen with its guests run under it. What is switched off is
# wrong in QEMU 7.2: with SMAP a PV kernel dies at its first IRET (mended in 9.1), RDTSCP in an SVM guest is taken for
# RDTSC, and with AVX and XSAVE programs of dom0 see wrong registers, and crash, while a PVH guest works.
# No devices but those asked for. VM_QEMU has the first serial port on stdio, VM_QEMU_BARE has none.
VM_QEMU_BARE=(qemu-system-x86_64 -accel 'tcg,thread=multi' -machine q35
    -cpu 'max,-smap,-la57,-pku,-rdtscp,-xsave,-avx,-avx2'
    -nodefaults -no-user-config -no-reboot -display none)
# shellcheck disable=SC2034
VM_QEMU=("${VM_QEMU_BARE[@]}" -serial stdio)

vm_error() {
    echo "tests/vm: $*" >&2
    return 1
}

# vm_apt ARGUMENT...: apt-get, quiet and unattended, waiting for another one to end.
vm_apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o APT::Sandbox::User=root \
        -o Acquire::Retries=3 "$@"
}

# vm_apt_lists: fetches the package lists when the machine has none.
vm_apt_lists() {
    apt-cache show busybox-static > /dev/null 2>&1 || vm_apt update >&2
}

# vm_need PROGRAM:PACKAGE...: installs the packages of the programs which this machine does not have.
vm_need() {
    local pair missing=()
    for pair; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" > /dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    vm_apt_lists || return
    vm_apt install -y --no-install-recommends "${missing[@]}" > /dev/null ||
        { vm_apt update && vm_apt install -y --no-install-recommends "${missing[@]}" > /dev/null; } ||
        vm_error "cannot install ${missing[*]}"
}

# vm_kernel_package: prints the name of the package with Debian's current kernel.
vm_kernel_package() {
    vm_apt_lists || return
    apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ { print $2; exit }'
}

# vm_fetch TREE PACKAGE...: unpacks packages (not what they depend on) into TREE. Packages that are in it
# already are left alone, so that several callers may share one tree, also at the same time.
vm_fetch() {
    mkdir -p "$VM_WORK" || return
    (flock 9 && vm_fetch_locked "$@") 9> "$VM_WORK/lock"
}

vm_fetch_locked() {
    local tree=$1 debs=$VM_WORK/debs package wanted=()
    shift
    mkdir -p "$tree/.have" "$debs" || return
    for package; do
        [ -e "$tree/.have/$package" ] || wanted+=("$package")
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    vm_apt_lists || return
    for package in "${wanted[@]}"; do
        rm -f "$debs/${package}"_*.deb
    done
    (cd "$debs" && { vm_apt download "${wanted[@]}" || { vm_apt update && vm_apt download "${wanted[@]}"; }; }) >&2 ||
        { vm_error "cannot download ${wanted[*]}"; return; }
    for package in "${wanted[@]}"; do
        dpkg -x "$debs/${package}"_*.deb "$tree" && touch "$tree/.have/$package" || return
    done
}

# vm_kernel TREE: prints the path of the kernel image in TREE; vm_kernel_version TREE: its version.
vm_kernel() {
    echo "$1/boot/vmlinuz-$(vm_kernel_version "$1")"
}

vm_kernel_version() {
    local version
    for version in "$1"/lib/modules/*; do :; done
    [ -d "$version" ] || vm_error "no kernel in $1" || return
    echo "${version##*/}"
}

# vm_root ROOT TREE: makes ROOT anew: a merged-/usr file tree with all of busybox's applets (busybox-static
# must be in TREE). Programs copied in later replace the applets of their names.
vm_root() {
    local root=$1 tree=$2 applet
    rm -rf "$root"
    mkdir -p "$root"/{proc,sys,dev,tmp,etc,run,mnt,root} "$root"/var/{log,lib,lock} \
        "$root"/usr/{bin,sbin,lib64,"lib/$VM_TRIPLE"} || return
    for applet in bin sbin lib lib64; do
        ln -s "usr/$applet" "$root/$applet"
    done
    ln -s /run "$root/var/run"
    cp "$tree/bin/busybox" "$root/usr/bin/busybox" || return
    for applet in $("$tree/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/usr/bin/$applet"
    done
    ln -s ../bin/busybox "$root/usr/sbin/modprobe" # the path the kernel calls
    printf 'root:x:0:0:root:/root:/bin/sh\n' > "$root/etc/passwd"
    printf 'root:x:0:\n' > "$root/etc/group"
}

# vm_copy ROOT TREE PATH...: copies files or folders from TREE (or "" for the machine itself) to the same
# paths in ROOT, where /bin, /sbin and /lib are those of /usr.
vm_copy() {
    local root=$1 tree=$2 path real
    shift 2
    for path; do
        real=$path
        [ -e "$tree$real" ] || real=/usr$path
        [ -e "$tree$real" ] || real=${path#/usr}
        [ -e "$tree$real" ] || vm_error "no $path in ${tree:-this machine}" || return
        mkdir -p "$root${path%/*}" && rm -f "$root/$path" 2> /dev/null
        if [ -d "$tree$real" ]; then
            mkdir -p "$root$path" && cp -a "$tree$real/." "$root$path/" || return
        else
            cp -L "$tree$real" "$root$path" || return
        fi
    done
}

# vm_libraries ROOT TREE: copies the shared libraries that the programs and libraries in ROOT need and ROOT
# lacks, from TREE or else from the machine. Fails when one is in neither.
vm_libraries() {
    local root=$1 tree=$2 lib=$1/usr/lib/$VM_TRIPLE found
    cp -L "/lib/$VM_TRIPLE/libgcc_s.so.1" "$lib/" || return # opened by glibc in pthread_cancel()
    found=$(find "$root/usr" -type f \( -perm /111 -o -name '*.so*' \) ! -name busybox -print0 |
        LD_LIBRARY_PATH=$lib:$tree/usr/lib/$VM_TRIPLE:$tree/lib/$VM_TRIPLE xargs -0 -n 1 ldd 2> /dev/null) || true # scripts and static programs
    ! grep 'not found' <<< "$found" >&2 || vm_error "libraries are missing in $root" || return
    awk '$2 == "=>" && $3 ~ "^/" { print $3 } $1 ~ "^/.*/ld-" { print $1 }' <<< "$found" | sort -u |
        while read -r found; do
            case $found in
                "$root"/*) ;;
                */ld-linux*) cp -L "$found" "$root/usr/lib64/" ;;
                *) [ -e "$lib/${found##*/}" ] || cp -L "$found" "$lib/" ;;
            esac || return
        done
}

# vm_modules ROOT TREE MODULE...: copies kernel modules and what they depend on, with their index.
vm_modules() {
    local root=$1 tree=$2 version module list files=''
    shift 2
    version=$(vm_kernel_version "$tree") || return
    [ -e "$tree/lib/modules/$version/modules.dep" ] || vm_sbin depmod -b "$tree" "$version" || return
    for module; do
        list=$(vm_sbin modprobe -d "$tree" -S "$version" --show-depends "$module" 2> /dev/null) ||
            vm_error "no kernel module $module" || return
        files+=$(awk '$1 == "insmod" { print $2 }' <<< "$list")$'\n'
    done
    sed -n "s|^$tree/||p" <<< "$files" | sort -u | (cd "$tree" && cpio -pdm --quiet "$root/usr") || return
    cp "$tree/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$root/usr/lib/modules/$version/" &&
        vm_sbin depmod -b "$root" "$version"
}

vm_sbin() {
    PATH=$PATH:/usr/sbin:/sbin "$@"
}

# vm_init ROOT < SCRIPT: writes ROOT/init: the usual mounts and device names, then SCRIPT (busybox sh).
# The words NAME=VALUE of the kernel's command line are in the environment, as the kernel gives them.
vm_init() {
    {
        cat << 'INIT'
#!/bin/busybox sh
export PATH=/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
exec > /dev/console 2>&1 < /dev/console
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /run/lock
ip link set lo up
INIT
        cat
    } > "$1/init" && chmod 755 "$1/init"
}

# vm_pack ROOT IMAGE: packs ROOT as an initramfs; an image may be appended to another one with cat.
vm_pack() {
    (set -o pipefail && cd "$1" && find . -print0 | cpio -0 -o -H newc --quiet | zstd -q -3 -T0) > "$2.new" &&
        mv "$2.new" "$2"
}
