# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The two hosts a (10.9.0.1) and b (10.9.0.2) as QEMU processes, sourced by lab. RUN is a folder with what belongs
# to the running hosts (short, as it holds sockets), LOGS keeps what they printed.

LOGS=$VM_WORK/logs
LAB_SMP=${LAB_SMP:-1}           # processors of a host: with 2, all takes twice as long on two real cores
LAB_LIMIT=${LAB_LIMIT:-3600}    # seconds after which a forgotten emulator ends by itself
LAB_ON_LIMIT=${LAB_ON_LIMIT:-600} # seconds one command may take

# host_number HOST: 1 for a, 2 for b: the last part of its address.
host_number() {
    case $1 in
        a) echo 1 ;;
        b) echo 2 ;;
        *) vm_error "no host $1" ;;
    esac
}

# hosts_create HYPERVISOR: new, empty disks and ports for hosts with xen-HYPERVISOR.
hosts_create() {
    local host disk
    mkdir -p "$LOGS" "$RUN"
    echo "$1" > "$RUN/hypervisor"
    for host in a b; do
        for disk in vda vdb; do
            rm -f "$VM_WORK/$host-$disk.raw"
            truncate -s 4G "$VM_WORK/$host-$disk.raw"
        done
        state_disk_create "$VM_WORK/$host-state.raw" || return
        : > "$LOGS/$host.log"
        free_port > "$RUN/$host.port"
    done
}

# state_disk_create FILE: what a host keeps of xmotion (/var/lib/xmotion) over a power cut.
state_disk_create() {
    rm -f "$1" && truncate -s 32M "$1" && vm_sbin mkfs.ext4 -q "$1"
}

free_port() {
    local port
    until port=$((20000 + RANDOM % 20000)) && ! (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do :; done
    echo "$port"
}

# power_on HOST: starts the emulator; ready when "host_ready HOST".
power_on() {
    local host=$1 number other=b
    number=$(host_number "$host") || return
    [ "$host" = a ] || other=a
    timeout -s KILL "$LAB_LIMIT" "${VM_QEMU_BARE[@]}" -smp "$LAB_SMP" -m 2048 -name "xmotion-lab-$host" \
        -pidfile "$RUN/$host.pid" -kernel "$VM_WORK/xen-$(cat "$RUN/hypervisor")" \
        -append "console=com1 com1=115200,8n1 dom0_mem=1024M,max:1024M dom0_max_vcpus=$LAB_SMP loglvl=warning
            sched=credit2 spec-ctrl=off bootscrub=0 ${LAB_XEN_ARGS:-}" \
        -initrd "$(vm_kernel "$PACKAGES") console=hvc0 mitigations=off quiet host=$host address=10.9.0.$number,$VM_WORK/host.cpio.zst" \
        -chardev "socket,id=console,path=$RUN/$host.console,server=on,wait=off,logfile=$LOGS/$host.log,logappend=on" \
        -serial chardev:console -monitor "unix:$RUN/$host.monitor,server=on,wait=off" \
        -netdev "dgram,id=wire,local.type=unix,local.path=$RUN/$host.wire,remote.type=unix,remote.path=$RUN/$other.wire" \
        -device "virtio-net-pci,netdev=wire,host_mtu=65000,mac=52:54:00:00:00:0$number,romfile=" \
        -netdev "user,id=shell,restrict=on,hostfwd=tcp:127.0.0.1:$(cat "$RUN/$host.port")-10.0.2.15:7000" \
        -device "virtio-net-pci,netdev=shell,mac=52:54:00:00:01:0$number,romfile=" \
        -drive "file=$VM_WORK/$host-vda.raw,format=raw,if=virtio,cache=unsafe,discard=unmap" \
        -drive "file=$VM_WORK/$host-vdb.raw,format=raw,if=virtio,cache=unsafe,discard=unmap" \
        -drive "file=$VM_WORK/$host-state.raw,format=raw,if=virtio,cache=unsafe" \
        > "$LOGS/$host.qemu" 2>&1 < /dev/null &
    disown
}

# power_off HOST: the emulator is killed, as if the power had failed. Its disks stay as they were: what dom0 has written to them is
# in this machine's page cache (cache=unsafe only leaves out its flushes), what dom0 had not written yet is lost.
power_off() {
    [ -e "$RUN/$1.pid" ] || return 0
    kill -9 "$(cat "$RUN/$1.pid")" 2> /dev/null
    while kill -0 "$(cat "$RUN/$1.pid")" 2> /dev/null; do sleep 0.05; done
    rm -f "$RUN/$1.pid"
}

# host_power_cut HOST, host_power_on HOST: the power fails; it comes back, and the host is up.
host_power_cut() {
    power_off "$1"
}

host_power_on() {
    power_on "$1"
    wait_for 240 host_ready "$1"
}

host_ready() {
    LAB_ON_LIMIT=5 on "$1" test -e /run/ready 2> /dev/null
}

# hosts_ready: waits until both hosts are up.
hosts_ready() {
    wait_for 240 host_ready a && wait_for 120 host_ready b
}

# on HOST COMMAND...: runs a command line (bash) in a host's dom0; its output, error output and exit code are this
# one's. Standard input is empty. on_input FILE HOST COMMAND...: the same with a file as standard input.
# A process that shall outlive the command is started with dom0's "start NAME COMMAND...".
on() {
    on_input /dev/null "$@"
}

on_input() {
    local input=$1 host=$2 reply size trailer
    shift 2
    reply=$(mktemp "$RUN/reply.XXXXXX")
    { printf '%s' "$*" | base64 -w 0; echo; cat "$input"; } |
        timeout "$LAB_ON_LIMIT" socat -t "$LAB_ON_LIMIT" STDIO "TCP:127.0.0.1:$(cat "$RUN/$host.port")" > "$reply" 2> /dev/null
    size=$(($(stat -c %s "$reply") - 14))
    trailer=$(tail -c 14 "$reply" | tr -d '\0')
    if [[ ! $trailer =~ ^([0-9]{10})\ ([0-9]{3})$ ]]; then
        rm -f "$reply"
        echo "host $host did not answer: $*" >&2
        return 255
    fi
    size=$((size - 10#${BASH_REMATCH[1]}))
    head -c "$size" "$reply"
    tail -c "+$((size + 1))" "$reply" | head -c -14 >&2
    rm -f "$reply"
    return "$((10#${BASH_REMATCH[2]}))"
}

# put FILE HOST PATH, get HOST PATH FILE: files into and out of a dom0.
put() {
    on_input "$1" "$2" "cat > '$3'"
}

get() {
    on "$1" "cat '$2'" > "$3"
}

# link_cut, link_up: the wire between the hosts; both see their carrier go and come.
link_cut() {
    monitor a 'set_link wire off' && monitor b 'set_link wire off'
}

link_up() {
    monitor a 'set_link wire on' && monitor b 'set_link wire on'
}

monitor() {
    echo "$2" | socat -t 1 STDIO "UNIX-CONNECT:$RUN/$1.monitor" > /dev/null
}

# wait_for SECONDS COMMAND...: tries a command until it succeeds; fails after so many seconds.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" > /dev/null; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.3
    done
}
