# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The two hypervisors of the lab, sourced by lab: Debian's own, and the same source with shadow paging, without
# which Xen cannot track the writes of a PV guest (stock Debian: "Failed to enable logdirty: 95,22,0").


# source_lists DIR: source lists in DIR for the Debian archives this machine uses; /etc is not touched.
source_lists() {
    mkdir -p "$1/lists/partial" && vm_apt_lists || return
    # shellcheck disable=SC2016
    apt-get indextargets 'Created-By: Packages' 'Component: main' --format '$(LABEL)|$(REPO_URI) $(RELEASE) main' |
        sed -n 's|^Debian[^|]*.|deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] |p' |
        sort -u > "$1/sources.list"
}

# hypervisor_source DIR VERSION: unpacks Debian's source package xen into DIR/xen-*, of VERSION if the archive
# has it (mirrors may lack the source of a security update), else the newest there is: the hypercalls that
# the tools use do not change within a stable release.
hypervisor_source() {
    local dir=$1 version=$2 options
    options=(-o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$dir/lists")
    source_lists "$dir" && vm_apt "${options[@]}" update >&2 || return
    for version in "$version" $(apt-cache "${options[@]}" showsrc xen | awk '$1 == "Version:" { print $2 }' | sort -Vr); do
        (cd "$dir" && vm_apt "${options[@]}" source "xen=$version" > source.log 2>&1) && return
    done
    tail -n 5 "$dir/source.log" >&2
    vm_error "cannot get the source of Xen"
}

# hypervisor_make XEN: builds the folder XEN of the source, its output goes to stdout.
hypervisor_make() {
    make -s -C "$1" defconfig && echo CONFIG_SHADOW_PAGING=y >> "$1/.config" && make -s -C "$1" olddefconfig &&
        grep '^CONFIG_SHADOW_PAGING=y' "$1/.config" && make -s -C "$1" -j "$(nproc)"
}

# hypervisor_shadow DIR VERSION FILE: the hypervisor with shadow paging. About a minute on two cores.
hypervisor_shadow() {
    local dir=$1 version=$2 file=$3 xen
    vm_need dpkg-source:dpkg-dev gcc:gcc make:make patch:patch bison:bison flex:flex bc:bc python3:python3-minimal ||
        return
    rm -rf "$dir" && mkdir -p "$dir" && hypervisor_source "$dir" "$version" || return
    for xen in "$dir"/xen-*/xen; do :; done
    if ! hypervisor_make "$xen" > "$dir/build.log" 2>&1; then
        tail -n 20 "$dir/build.log" >&2
        vm_error "the hypervisor did not build"
        return
    fi
    cp "$xen/xen" "$file" && rm -rf "${xen%/*}" # 250 MB that are not needed again
}
