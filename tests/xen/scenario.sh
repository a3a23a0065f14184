# shellcheck shell=bash disable=SC2016
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What scenarios are written with, besides hosts.sh. A scenario is sourced with "set -e" and ends in time with success
# or by "fail"; lab prints "ok NAME" or "FAIL NAME: why". Its first lines say which hypervisor it needs ("# hosts: stock"
# or "# hosts: shadow") and whether it needs xmotion in dom0 ("# needs: xmotion"), or one with fault points ("# needs: faults").

GUEST_ADDRESS=10.9.0.101
DISKS=(vm1-root:96 vm1-swap:32) # the guest's volumes and their sizes in MiB

say() {
    printf '  [%4d s] %s\n' "$SECONDS" "$*"
}

# fail WHY...: ends the scenario.
fail() {
    echo "$*" > "$RUN/why"
    exit 1
}

# now_ms: a clock in milliseconds.
now_ms() {
    echo $((${EPOCHREALTIME/[^0-9]/} / 1000))
}

# volumes_create HOST [VG]: the guest's volumes, zeroed as a new volume may hold what was there before.
volumes_create() {
    local disk commands=''
    for disk in "${DISKS[@]}"; do
        commands+="lvcreate -q -y -Zn -Wn -L ${disk#*:}M -n ${disk%:*} ${2:-vg0} > /dev/null 2>&1 || exit; "
        commands+="blkdiscard -z -f /dev/${2:-vg0}/${disk%:*} 2> /dev/null || exit; "
    done
    on "$1" "$commands" || fail "cannot make the guest's volumes in host $1"
}

# guest_create HOST TYPE [DIRTY [WRITE [WORDS]]]: makes the guest (type pvh or pv) on its volumes in vg0 and waits until it
# answers. Its load dirties DIRTY KiB of RAM and writes WRITE KiB to disk a second. WORDS are more for its command line.
guest_create() {
    local host=$1 type=$2 dirty=${3:-4096} write=${4:-1024}
    volumes_create "$host"
    on "$host" "xl create -q /guest/vm1.cfg 'type=\"$type\"' 'memory=${LAB_GUEST_MEMORY:-128}' \
        'extra=\"console=hvc0 quiet mitigations=off load_dirty=$dirty load_write=$write ${5:-}\"'" ||
        fail "cannot create the guest"
    wait_for 180 guest_ask "$host" 2 status || fail "the guest does not come up"
    say "$type guest is up on $host: $(guest_ask "$host" 5 status)"
}

# guest_ask HOST SECONDS COMMAND...: asks guestd from a host's dom0 (see dom0/ask).
guest_ask() {
    on "$1" ask "${@:2}" 2> /dev/null
}

# guest_verify HOST: the guest, asked from HOST, proves its RAM and disks.
guest_verify() {
    local answer
    answer=$(guest_ask "$1" 200 verify) || fail "the guest does not answer verify"
    say "verify: $answer"
    [[ $answer == ok* ]] || fail "the guest is not whole: $answer"
}

# guest_runs HOST: whether the guest is a running domain there. guest_absent HOST: whether no domain but dom0 is.
guest_runs() {
    [ "$(on "$1" xl list vm1 2> /dev/null | awk 'NR == 2 { print $5 ~ "s|c|d|p" ? "no" : "yes" }')" = yes ]
}

guest_absent() {
    [ "$(on "$1" "xl list | tail -n +3 | wc -l")" = 0 ]
}

# volumes HOST VG: prints the names of the volumes there.
volumes() {
    on "$1" "lvs --noheadings -o lv_name $2" | tr -d ' '
}

# heartbeat_start, heartbeat_stop: measures the guest's silence from host b's dom0, to be there on both ends of a move.
# After the second GAP_MS is the longest silence in milliseconds (rounded down).
heartbeat_start() {
    on b "start heartbeat heartbeat $GUEST_ADDRESS"
}

heartbeat_stop() {
    local line
    line=$(on b 'kill $(cat /run/heartbeat.job); until [ -e /run/heartbeat.rc ]; do sleep 0.05; done
        grep gap /var/log/heartbeat.log | sort -k 2 -n -r | sed -n 1,3p >&2; tail -n 1 /var/log/heartbeat.log') ||
        fail "no heartbeat was measured"
    say "heartbeat: $line"
    [[ $line == longest*'went back 0 times' ]] || fail "the guest's heartbeat: $line"
    line=${line#longest }
    # shellcheck disable=SC2034
    GAP_MS=${line%%.*}
}

# hosts_clean: no guests, no volumes, nothing of xmotion running: as after boot.
hosts_clean() {
    local host
    link_up
    for host in a b; do
        on "$host" '
            for job in /run/*.job; do
                case $job in */shell.job | */xenstored.job | */xenconsoled.job) continue ;; esac
                kill -9 -- "-$(cat "$job")" 2> /dev/null; rm -f "$job"
            done
            xl list | awk "NR > 2 { print \$2 }" | while read -r domain; do xl destroy "$domain"; done
            rm -rf /var/lib/xmotion/* /run/xmotion /var/log/xen/console/guest-*
            lvremove -q -y vg0 vg1 > /dev/null 2>&1
            [ -z "$(lvs --noheadings)" ]' || return
    done
}
