# shellcheck shell=bash disable=SC2016,SC2034
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Processes killed and power cut in every state of a move, for scenarios. The guest lives through all cells of a scenario: each one
# moves it from the host it is on to the other. xmotion is stopped at a fault point, the fault is done, everything is brought back,
# "xmotion recover" runs on both hosts, and then there must be exactly one guest, whole, on the host that owns it.

FAULTS=/usr/lib/xmotion-faults/xmotion
CELLS=()

# crash_begin: a small guest on a, both hosts with receivers that take guests from the other.
crash_begin() {
    local host
    # Little to copy: disks of 24 and 8 MiB, 112 MiB of RAM of which 12 are the load's.
    DISKS=(vm1-root:24 vm1-swap:8)
    LAB_GUEST_MEMORY=112
    guest_create a pvh 512 128 'load_ram=12 load_adopt=1'
    for host in a b; do
        on "$(other "$host")" "xmotion authorize $(on "$host" xmotion identity)" > /dev/null || fail "$host is not authorized"
    done
    receiver_on a
    receiver_on b
    for host in a b; do
        on "$(other "$host")" "xmotion trust $(address "$host"):7799 --fingerprint $(on "$host" xmotion identity)" > /dev/null ||
            fail "$host is not trusted"
    done
    AT=a
}

other() {
    if [ "$1" = a ]; then echo b; else echo a; fi
}

address() {
    echo "10.9.0.$(host_number "$1")"
}

# receiver_on HOST [FAULT]: a receiver there, which first recovers what is left.
receiver_on() {
    on "$1" "${2:+XMOTION_FAULT=$2} start recv $FAULTS recv --listen $(address "$1"):7799 --sr lvm:vg1 --json"
    wait_for 60 on "$1" "[ -e /run/recv.rc ] || nc -w 1 $(address "$1") 7799 < /dev/null 2> /dev/null" && on "$1" '[ ! -e /run/recv.rc ]' ||
        { on "$1" cat /var/log/recv.log; fail "the receiver on $1 does not listen"; }
}

receiver_stop() {
    on "$1" 'kill -9 $(cat /run/recv.job) 2> /dev/null; until [ -e /run/recv.rc ]; do sleep 0.05; done'
}

# stopped_at HOST JOB: whether the process has stopped itself at its fault point.
is_stopped() {
    on "$1" "[ \"\$(awk '{ print \$3 }' /proc/\$(cat /run/$2.job)/stat)\" = T ]"
}

await_stop() {
    wait_for "$LAB_MOVE_LIMIT" on "$1" "[ -e /run/$2.rc ] || [ \"\$(awk '{ print \$3 }' /proc/\$(cat /run/$2.job)/stat)\" = T ]"
    is_stopped "$1" "$2" || { on "$1" "tail -n 3 /var/log/$2.log"; fail "$2 on $1 ended before it came to its fault point"; }
}

# fault_at POINT FROM TO: the move begins and stands at POINT, the process at the other end goes on.
fault_at() {
    local point=$1 from=$2 to=$3 send=
    if [[ $point = target.* ]]; then
        receiver_stop "$to"
        receiver_on "$to" "$point=stop"
    else
        send=XMOTION_FAULT=$point=stop
    fi
    on "$from" "$send start send $FAULTS send vm1 $(address "$to"):7799 --sr lvm:vg1 --downtime $LAB_DOWNTIME \
        --timeout 3m --on-timeout stop --json ${LAB_CRASH_OPTIONS---reconnect-for 0s}"
    if [[ $point = target.* ]]; then
        await_stop "$to" recv
    else
        await_stop "$from" send
    fi
    # Once GO has been sent, the receiver has it.
    [ "$point" != source.go ] || wait_for 60 guest_runs "$to" || fail "the guest does not run on $to"
}

# What can happen. Whoever is not hit goes on.
kill_sender() { # the agent sees it and does what is right by itself
    on "$1" 'kill -9 $(cat /run/send.job)'
}

kill_sender_all() { # and everything else of the move there: only recovery can help
    on "$1" 'kill -9 $(cat /run/send.job) $(pidof xmotion-xen) $(pidof xmotion-save-helper)' || true
}

kill_receiver() {
    on "$2" 'kill -9 $(cat /run/recv.job)'
    sender_goes_on "$1"
}

kill_receiver_all() {
    on "$2" 'kill -9 $(cat /run/recv.job) $(pidof xmotion-xen) $(pidof libxl-save-helper)' || true
    sender_goes_on "$1"
}

cut_source() {
    host_power_cut "$1"
}

cut_target() {
    host_power_cut "$2"
    sender_goes_on "$1"
}

sender_goes_on() {
    on "$1" 'kill -CONT $(cat /run/send.job) 2> /dev/null' || true # one that has seen it end has ended too
}

# all_back WHAT FROM TO: hosts and receivers are there again, a sender that lives has come to its end.
all_back() {
    local host
    case $1 in
        cut_source) host_power_on "$2" || fail "$2 does not come up" ;;
        cut_target) host_power_on "$3" || fail "$3 does not come up" ;;
    esac
    for host in a b; do
        if on "$host" '[ ! -e /run/recv.job ] || [ -e /run/recv.rc ] || [ "$(awk "{ print \$3 }" /proc/$(cat /run/recv.job)/stat)" = T ]'; then
            on "$host" '[ ! -e /run/recv.job ]' || receiver_stop "$host"
            receiver_on "$host"
        fi
    done
    case $1 in
        *_target | kill_receiver*) wait_for 120 on "$2" '[ -e /run/send.rc ]' || fail 'the sender does not end' ;;
    esac
}

# recover_both: until nothing is left to settle. A host whose peer was not yet ready asks again; a receiver that is at it is waited for.
recover_both() {
    local host left begun=$SECONDS
    while [ $((SECONDS - begun)) -lt 60 ]; do
        left=
        for host in a b; do
            on "$host" "$FAULTS recover" > "$RUN/recover.$host" 2>&1 || left=yes
        done
        [ -n "$(on a 'ls -A /var/lib/xmotion/outgoing 2> /dev/null')$(on b 'ls -A /var/lib/xmotion/outgoing 2> /dev/null')" ] || [ "$left" ] || return 0
        sleep 1
    done
    cat "$RUN"/recover.*
    on a "$FAULTS list"
    on b "$FAULTS list"
    fail "recovery does not come to an end"
}

domains() {
    on "$1" 'xl list | awk "NR > 2 { printf \"%s \", \$1 }"'
}

# guest_is_on HOST: it runs there, and nothing of it is a domain anywhere else.
guest_is_on() {
    [ "$(domains "$1")" = 'vm1 ' ] && [ -z "$(domains "$(other "$1")")" ] && guest_runs "$1"
}

has_monitor() {
    on "$1" 'for p in /proc/[0-9]*/fd/2; do readlink $p; done 2> /dev/null | grep -q -E "/var/log/xen/(xl|xmotion)-vm1.log"'
}

# LAB_CELLS: an expression, and only cells whose "POINT WHAT" it matches are run.
# cell POINT WHAT OWNER RAM: OWNER is source or target; RAM is kept (the guest never stopped) or new (its host lost its power).
cell() {
    local point=$1 what=$2 owner=$3 ram=$4 from=$AT to before after began=$SECONDS
    [[ "$point $what" =~ ${LAB_CELLS:-.} ]] || return 0
    to=$(other "$from")
    before=$(guest_ask "$from" 20 status) || fail "$point $what: the guest does not answer before"
    fault_at "$point" "$from" "$to"
    "$what" "$from" "$to"
    all_back "$what" "$from" "$to"
    recover_both
    AT=$from
    [ "$owner" = source ] || AT=$to
    wait_for 60 guest_is_on "$AT" || fail "$point $what: on $from $(domains "$from"), on $to $(domains "$to"), not one guest on $AT"
    wait_for 60 guest_ask "$AT" 5 status || fail "$point $what: the guest does not answer"
    after=$(guest_verify_quiet "$AT") || fail "$point $what: not whole: $after"
    check_progress "$ram" "$before" "$after" || fail "$point $what: memory is not $ram: before $before, after $after"
    wait_for 20 has_monitor "$AT" || fail "$point $what: nobody looks after the guest"
    nothing_left "$point $what" "$AT" "$(other "$AT")" "$owner"
    CELLS+=("$(printf '%-18s %-18s %-7s %-5s %4d s' "$point" "$what" "$owner" "$ram" $((SECONDS - began)))")
    say "cell ${CELLS[-1]}"
}

guest_verify_quiet() {
    local answer
    answer=$(guest_ask "$1" 200 verify)
    echo "$answer"
    [[ $answer == ok* ]]
}

# check_progress RAM BEFORE AFTER: writes never go back, pages only when the memory was lost.
check_progress() {
    local pages_before pages writes_before writes life_before life
    read -r pages_before writes_before life_before <<< "$(numbers "$2")"
    read -r pages writes life <<< "$(numbers "$3")"
    [ "$writes" -ge "$writes_before" ] || return
    if [ "$1" = kept ]; then
        [ "$life" = "$life_before" ] && [ "$pages" -ge "$pages_before" ]
    else
        [ "$life" != "$life_before" ]
    fi
}

numbers() {
    sed -n 's/.*pages \([0-9]*\) writes \([0-9]*\) .* life \(.*\)/\1 \2 \3/p' <<< "$1"
}

# nothing_left CELL OWNER LOSER WHO: no process of the move; no journal; no volume of a guest that did not come. The disks of one that
# went are the administrator's, who removes them here.
nothing_left() {
    local host left
    for host in a b; do
        left=$(on "$host" 'pidof xmotion-save-helper libxl-save-helper; ls -A /var/lib/xmotion/outgoing /var/lib/xmotion/incoming 2> /dev/null | grep json; true')
        [ -z "$left" ] || fail "$1: left on $host: $left"
    done
    if [ "$4" = source ]; then
        [ -z "$(others_volumes "$3" "$2")" ] || fail "$1: volumes are left on $3: $(others_volumes "$3" "$2")"
    fi
    on "$3" 'lvremove -q -y vg0 vg1 > /dev/null 2>&1; [ -z "$(lvs --noheadings)" ]' || fail "$1: volumes on $3 are still in use"
}

others_volumes() {
    volumes "$1" vg0
    volumes "$1" vg1
}

# used_disk_is_refused: nobody writes over the disk of a guest that runs, though the receiver is told to let it be used. blkback holds
# it open, but not exclusively.
used_disk_is_refused() {
    local path said
    path=$(on "$AT" 'echo /dev/vg*/vm1-root')
    receiver_stop "$AT"
    on "$AT" "start recv $FAULTS recv --listen $(address "$AT"):7799 --allow-disk $path --json"
    wait_for 60 on "$AT" "nc -w 1 $(address "$AT") 7799 < /dev/null 2> /dev/null" || fail 'the receiver does not listen'
    on "$(other "$AT")" 'lvcreate -q -y -L 24M -n probe vg0 > /dev/null 2>&1' || fail 'no volume for the probe'
    said=$(on "$(other "$AT")" "$FAULTS send disk:/dev/vg0/probe $(address "$AT"):7799 --disk probe=$path 2>&1") &&
        fail "the guest's disk was written over"
    [[ $said == *"in use here"* ]] || fail "a disk in use is refused for another reason: $said"
    guest_verify_quiet "$AT" > /dev/null || fail 'the guest is not whole after it'
    say "refused: ${said##*xmotion: }"
}

crash_end() {
    say 'at                 what               owner   RAM    time'
    for cell in "${CELLS[@]}"; do
        say "$cell"
    done
    say "${#CELLS[@]} cells"
}
