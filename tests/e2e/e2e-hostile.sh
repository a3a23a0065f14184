#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A hostile network. While a guest moves, a thousand connections of every bad kind (tests/hostile/attack.py) beat on the
# receiver: the move goes on and ends verified, memory, threads and descriptors stay bounded and are given back,
# and whoever is authorized gets in at once. Then an authorized peer asks for what it must not get (requests.py).
#
# The speed of moves with and without the attack is printed. XMOTION_HOSTILE_STRICT=1: it is measured thoroughly, and the test
# fails when the attack costs more than a tenth. XMOTION_HOSTILE_RUNS, XMOTION_HOSTILE_MIB: pairs of moves (1; 7), size (256; 2048).
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

STRICT=${XMOTION_HOSTILE_STRICT:-}
RUNS=${XMOTION_HOSTILE_RUNS:-$([ -n "$STRICT" ] && echo 7 || echo 1)}
MIB=${XMOTION_HOSTILE_MIB:-$([ -n "$STRICT" ] && echo 2048 || echo 256)}
PLUGIN=$(find "${XMOTION_PLUGIN_DIR:-$XMOTION_ROOT}" -name nbdkit-xmotion-plugin.so -print -quit 2> /dev/null)
CONNECTIONS=1000
MEMORY_MOST=65536 # KiB that the attack may add
CPU_MOST=10       # ms of the receiver's for each bad connection
THREADS_MOST=192  # 64 handshakes, 72 silent ones of one peer, 16 roles, and those that are just ending

# status KEY: a number of the receiver's /proc/PID/status.
status() {
    awk -v key="$1:" '$1 == key { print $2 }' "/proc/${RECEIVER[b]}/status"
}

# cpu_ms: what the receiver has used so far.
cpu_ms() {
    awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print int(($12 + $13) * 1000 / hz) }' "/proc/${RECEIVER[b]}/stat"
}

descriptors() {
    find "/proc/${RECEIVER[b]}/fd" -mindepth 1 | wc -l
}

# attack_start [OPTION...]: from now on; ATTACK is its process.
attack_start() {
    XMOTION_RUN_DIR="$WORK/m/run" python3 "$TOP/tests/hostile/attack.py" "$(address b)" --stranger "$WORK/s/state" \
        --peer "$WORK/m/state" --connections "$CONNECTIONS" "$@" > "$WORK/attack.log" 2> "$WORK/attack.err" < /dev/null &
    ATTACK=$!
}

attack_is_on() {
    ! gone "$ATTACK" && wait_for 120 grep -q '^opened' "$WORK/attack.log"
}

attack_stop() {
    kill -TERM "$ATTACK" 2> /dev/null
    wait "$ATTACK" && python3 - "$WORK/attack.log" "$CONNECTIONS" <<'PYTHON'
import json
import sys

report = json.loads(open(sys.argv[1], encoding="utf-8").read().splitlines()[-1])
print(report)
assert report["opened"] >= int(sys.argv[2]), "too few connections"
assert all(opened for opened, _ in report["kinds"].values()), "a kind is missing"
# Whatever is no TLS, is not authorized or breaks the protocol was shown out.
for kind in "garbage", "stranger", "records", "giant", "bomb", "data":
    opened, ended = report["kinds"][kind]
    assert ended >= opened - 5, kind
PYTHON
}

# within MILLISECONDS COMMAND...
within() {
    local begun limit=$1
    shift
    begun=$(date +%s%N)
    "$@" || return
    TOOK_MS=$((($(date +%s%N) - begun) / 1000000))
    [ "$TOOK_MS" -le "$limit" ] || { echo "took $TOOK_MS ms, at most $limit are fine"; return 1; }
}

lets_in() {
    on a check proc:h "$(address b)" --sr "dir:$WORK/b/sr"
}

at_most() {
    [ "$1" -le "$2" ] || { echo "$1, at most $2 is fine"; return 1; }
}

# as_before: nothing of the attack is left in the receiver.
as_before() {
    at_most "$(status Threads)" "$THREADS" && at_most "$(descriptors)" "$DESCRIPTORS"
}

# confined PID
confined() {
    local cap_sys_module=16 caps seccomp=2
    grep -q -a seccomp_load "$XMOTION" || seccomp=0
    grep -q '^NoNewPrivs:[[:space:]]*1$' "/proc/$1/status" || { echo 'no_new_privs is not set'; return 1; }
    grep -q "^Seccomp:[[:space:]]*$seccomp$" "/proc/$1/status" || { grep Seccomp "/proc/$1/status"; return 1; }
    caps=$(awk '/^CapBnd:/ { print $2 }' "/proc/$1/status")
    [ "$(id -u)" != 0 ] || (((0x$caps >> cap_sys_module & 1) == 0)) || { echo "capabilities $caps"; return 1; }
    grep -q '^Max core file size *[01] *[01] ' "/proc/$1/limits" || { grep core "/proc/$1/limits"; return 1; }
}

guest_is_confined() {
    local pid found=
    for pid in $(processes b/); do
        [ "$pid" != "${RECEIVER[b]}" ] || continue
        confined "$pid" || return
        found=yes
    done
    [ -n "$found" ]
}

unconfined() {
    grep -q '^NoNewPrivs:[[:space:]]*0$' "/proc/$1/status"
}

receiver_restart() {
    kill "${RECEIVER[b]}"
    wait "${RECEIVER[b]}"
    receiver_start b --allow-disk "$WORK/b/fixed.img" "$@"
}

requests_refused() {
    python3 "$TOP/tests/hostile/requests.py" "$(address b)" "$WORK/m/state" "$WORK/b/fixed.img" "$WORK/b/other.img" "dir:$WORK/b/sr"
}

# Without any SR nothing can be made, whatever the sizes are.
requests_refused_without_sr() {
    host_make c && start c "$WORK/c/recv.log" recv --listen "127.0.0.1:${PORT[c]}" && wait_for 15 listens "${PORT[c]}" || return
    on c authorize "$(fingerprint m)" > /dev/null || return
    python3 "$TOP/tests/hostile/requests.py" "$(address c)" "$WORK/m/state" && ! gone "$PID"
}

receiver_is_there() {
    ! gone "${RECEIVER[b]}" && lets_in
}

# silent_hellos: authorized, HELLO said, then nothing: they take no place among the migrations.
silent_hellos() {
    python3 - "$(address b)" "$WORK/m/state" "$TOP/tests/hostile" > "$WORK/silent.log" 2>&1 <<'PYTHON' &
import signal
import sys

sys.path.insert(0, sys.argv[3])
from wire import Peer

host, port = sys.argv[1].rsplit(":", 1)
peers = [Peer((host, int(port)), sys.argv[2]) for _ in range(5)]
print("silent", flush=True)
signal.pause()
PYTHON
    SILENT=$!
    wait_for 20 grep -q silent "$WORK/silent.log"
}

one_too_many() {
    local code=0
    on a send proc:h "$(address b)" --sr "dir:$WORK/b/sr" > "$WORK/many.log" 2> "$WORK/many.err" || code=$?
    [ "$code" = 1 ] || [ "$code" = 3 ] || { echo "exit code $code: $(cat "$WORK/many.err")"; return 1; }
    one_sentence "$WORK/many.err" && grep -q -e '--max-migrations' "$WORK/many.err" && guest_runs a h
}

# -- speed --

serve() {
    XMOTION_RUN_DIR="$WORK/a/run" nbdkit -f -U "$WORK/disk.sock" "$PLUGIN" "file=$WORK/disk.img" > "$WORK/nbdkit.log" 2>&1 < /dev/null &
    wait_for 10 test -S "$WORK/disk.sock"
}

# speed: MiB a second of one move of the disk.
speed() {
    send a b "disk:nbd+unix:///?socket=$WORK/disk.sock" || return
    rm -f "$WORK"/b/sr/*
    python3 -c 'import sys; print(round(float(sys.argv[1]) * 1000 / float(sys.argv[2]), 1))' "$MIB" "$(result_field total_ms)"
}

# The attacker is another machine's load: here it gets only the time that nobody else wants. Its connections come evenly, all of them within
# the first four seconds, and go on coming.
speed_attacked() {
    local result
    attack_start --even --rate 250
    chrt --idle --pid 0 "$ATTACK"
    result=$(speed) || return
    kill -TERM "$ATTACK"
    wait "$ATTACK"
    tail -n 1 "$WORK/attack.log" >> "$WORK/attacks.log"
    echo "$result"
}

speeds() {
    local i
    speed > /dev/null || return
    for ((i = 0; i < RUNS; i++)); do
        speed >> "$WORK/alone" && speed_attacked >> "$WORK/attacked" || return
    done
}

ratio() {
    python3 - "$WORK/alone" "$WORK/attacked" <<'PYTHON'
import statistics
import sys

alone, attacked = ([float(line) for line in open(name, encoding="utf-8")] for name in sys.argv[1:])
a, b = statistics.median(alone), statistics.median(attacked)
print(f"{a:.0f} {b:.0f} {b / a:.3f}")
PYTHON
}

within_a_tenth() {
    python3 -c 'import sys; sys.exit(float(sys.argv[1]) < 0.9)' "$1"
}

test_begin nbdkit chrt
ulimit -n 8192 2> /dev/null || skip 'this test needs 8192 descriptors'
[ -n "$PLUGIN" ] || skip 'the nbdkit plugin was not built'
# ASan keeps what was freed, TSan has shadows.
! grep -q -a -E "__(asan|tsan)_init" "$XMOTION" || MEMORY_MOST=1048576
must 'host a starts' host_start a
must 'host b starts' host_start b
truncate -s 1M "$WORK/b/fixed.img" "$WORK/b/other.img"
must 'it allows a disk' receiver_restart
must 'they are paired' pair a b
host_make m && host_make s
must 'a bad peer is authorized too' on b authorize "$(fingerprint m)"
on s identity > /dev/null
must 'the guest runs' guest_start a g --memory 64M --disk "$WORK/a/g.img:256M" --dirty-rate 8M --write-rate 4M
must 'another one of its size' guest_start a f --memory 64M --disk "$WORK/a/f.img:256M" --dirty-rate 8M --write-rate 4M
must 'and a small one' guest_start a h --memory 16M --disk "$WORK/a/h.img:16M" --dirty-rate 1M --write-rate 1M
check 'the receiver is confined' confined "${RECEIVER[b]}"
check 'an authorized peer gets in' lets_in

must 'a guest moves in peace' send a b proc:f
on b guest destroy f && rm -f "$WORK/b/sr/f.img"
sleep 1
CPU=$(cpu_ms)
THREADS=$(status Threads) DESCRIPTORS=$(descriptors) MEMORY=$(status VmHWM)
attack_start
must 'a thousand connections are opened' attack_is_on
check 'an authorized peer gets in at once' within 3000 lets_in
CPU=$(($(cpu_ms) - CPU))
echo "# under attack: $(status Threads) threads, $(descriptors) descriptors, $CPU ms of CPU; let in after ${TOOK_MS:-?} ms"
check 'bad connections cost little' at_most "$CPU" $((CPU_MOST * CONNECTIONS))
check 'threads are bounded' at_most "$(status Threads)" $THREADS_MOST
must 'a guest moves meanwhile' send a b proc:g
check 'the result says moved' result_is outcome moved
check 'its disk is verified' result_is disks.0.verified true
check 'the attack went on all the while' attack_is_on
check 'the guest runs at the target' guest_runs b g
check 'it is whole' on b guest verify g
check 'it is confined like its receiver' guest_is_confined
check 'the attack was what it should be' attack_stop
PEAK=$(status VmHWM)
echo "# receiver's memory: at most $((MEMORY / 1024)) MiB for a move in peace, $((PEAK / 1024)) MiB under attack (VmHWM); $(grep opened "$WORK/attack.log" | tail -n 1 | cut -c 1-80)"
check 'memory is bounded' at_most $((PEAK - MEMORY)) "$MEMORY_MOST"
check 'an authorized peer gets in at once afterwards' within 3000 lets_in
check 'no thread and no descriptor is left' wait_for 45 as_before

check 'an authorized peer gets only what is opened to it' requests_refused
check 'and nothing of it is left' wait_for 10 eval '[ "$(find "$WORK/b/sr" -type f)" = "$WORK/b/sr/g.img" ]'
check 'the receiver is there' receiver_is_there
check 'the same without any SR' requests_refused_without_sr

must 'the receiver takes one guest at a time' receiver_restart --max-migrations 1
must 'senders say HELLO and nothing more' silent_hellos
must 'a third guest runs' guest_busy a i
send_start a b proc:i --downtime 1ms
check 'a guest moves all the same' wait_for 20 in_phase disks
check 'one more is refused' one_too_many
kill -TERM "$SILENT" && wait "$SILENT"
kill -INT "$SENDER" && wait "$SENDER"
check 'when it is over, the next may come' wait_for 20 send a b proc:h
check 'who must can do without being confined' receiver_restart --no-confine
check 'it is not, then' unconfined "${RECEIVER[b]}"

head -c "$MIB"M /dev/urandom > "$WORK/disk.img"
must 'nbdkit serves a disk' serve
must 'the receiver is confined again' receiver_restart
must 'the disk moves with and without an attack' speeds
read -r alone attacked part < <(ratio)
echo "# a disk of $MIB MiB, medians of $RUNS: $alone MiB/s alone, $attacked MiB/s under attack, $part of it"
[ -z "$STRICT" ] || check 'the attack costs no more than a tenth' within_a_tenth "$part"
test_end
