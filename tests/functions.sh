# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What end-to-end tests are written with; also scripts/demo. A test is a bash script that sources this file, calls
# test_begin, then check, and ends in time with test_end. It prints "ok N - text" and "not ok N - text" lines and "1..N",
# and exits with 0, with 1 when a check failed, or with 77 after "1..0 # SKIP reason".
#
# A "host" is a name with its own folders under $WORK/NAME: state (keys, trust), run (sockets), sr (an SR), and a
# receiver on 127.0.0.1. Everything started here carries XMOTION_RUN_DIR=$WORK/NAME/run in its environment; by that it
# is found, and ended by pid.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The installed tree that is tested: scripts/test and scripts/demo set it.
XMOTION_ROOT=${XMOTION_ROOT:-$TOP/build/test/root}
XMOTION=${XMOTION:-$XMOTION_ROOT/bin/xmotion}
CHECKS=0
FAILED=0
declare -A PORT RECEIVER LINK

# test_begin [PROGRAM...]: makes the work folder; skips the test when xmotion or one of the programs is missing.
test_begin() {
    local program
    for program in "$XMOTION" python3 "$@"; do
        command -v "$program" > /dev/null || skip "$program is missing"
    done
    WORK=$(mktemp -d "${TMPDIR:-/tmp}/xmotion-test.XXXXXX")
    trap test_cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# skip WHY...: ends the test as skipped.
skip() {
    echo "1..0 # SKIP $*"
    exit 77
}

test_end() {
    echo "1..$CHECKS"
    [ "$FAILED" = 0 ] || exit 1
}

# processes [HOST]: the pids of what runs in one host, or in all of this test's.
processes() {
    grep -l -s -F -- "XMOTION_RUN_DIR=$WORK/${1:-}" /proc/[0-9]*/environ 2> /dev/null | tr -d -c '0-9\n'
}

test_cleanup() {
    local status=$? pids i
    trap '' INT TERM
    trap - EXIT
    for i in TERM KILL KILL; do
        mapfile -t pids < <(processes)
        [ "${#pids[@]}" = 0 ] && break
        kill -s "$i" "${pids[@]}" 2> /dev/null
        wait_for 5 nothing_runs
    done
    if mountpoint -q "$WORK/small" 2> /dev/null; then
        umount "$WORK/small"
    fi
    if [ "$status" != 0 ] && [ "$status" != 77 ] && [ -n "${XMOTION_KEEP:-}" ]; then
        echo "# kept: $WORK"
    else
        rm -rf "$WORK"
    fi
    exit "$status"
}

nothing_runs() {
    [ -z "$(processes "$@")" ]
}

# check TEXT COMMAND...: one check; what the command prints is shown when it fails.
check() {
    local text=$1
    shift
    CHECKS=$((CHECKS + 1))
    if "$@" > "$WORK/check.out" 2>&1; then # no subshell: the command may set variables and wait for processes
        echo "ok $CHECKS - $text"
    else
        FAILED=$((FAILED + 1))
        echo "not ok $CHECKS - $text"
        { echo "failed: $*"; tail -n 30 "$WORK/check.out"; } | sed 's/^/#   /'
    fi
}

# must TEXT COMMAND...: a check without which the rest makes no sense: the test ends when it fails.
must() {
    local before=$FAILED
    check "$@"
    if [ "$FAILED" != "$before" ]; then
        show_logs
        test_end
    fi
}

show_logs() {
    local log
    for log in "$WORK"/*.log "$WORK"/*/*.log; do
        [ -s "$log" ] || continue
        echo "# --- ${log#"$WORK/"}"
        tail -n 15 "$log" | cut -c 1-400 | sed 's/^/#   /'
    done
}

# wait_for SECONDS COMMAND...: repeats the command until it succeeds.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

listens() {
    (: < "/dev/tcp/127.0.0.1/$1") 2> /dev/null
}

# on HOST COMMAND...: xmotion as that host.
on() {
    local host=$1
    shift
    XMOTION_STATE_DIR="$WORK/$host/state" XMOTION_RUN_DIR="$WORK/$host/run" "$XMOTION" "$@"
}

# start HOST LOG COMMAND...: the same in the background; PID is its process, LOG its standard output, LOG.err its errors.
start() {
    local host=$1 log=$2
    shift 2
    XMOTION_STATE_DIR="$WORK/$host/state" XMOTION_RUN_DIR="$WORK/$host/run" "$XMOTION" "$@" \
        > "$log" 2> "$log.err" < /dev/null &
    PID=$!
}

# host_make HOST: its folders and its port.
host_make() {
    mkdir -p "$WORK/$1/state" "$WORK/$1/run" "$WORK/$1/sr"
    chmod 700 "$WORK/$1/state"
    PORT[$1]=$(free_port)
}

# receiver_start HOST [OPTION...]: (again) a receiver that offers the SR $WORK/HOST/sr.
receiver_start() {
    local host=$1
    shift
    start "$host" "$WORK/$host/recv.log" recv --listen "127.0.0.1:${PORT[$host]}" --sr "dir:$WORK/$host/sr" "$@"
    RECEIVER[$host]=$PID
    wait_for 15 listens "${PORT[$host]}"
}

# host_start HOST [OPTION...]: both.
host_start() {
    host_make "$1" && receiver_start "$@"
}

address() {
    echo "127.0.0.1:${LINK[$1]:-${PORT[$1]}}"
}

# link_start HOST: a link to HOST that misbehaves on command (tests/faults/proxy.py says how); before pairing with it.
# link HOST COMMAND...: the command; it prints one line of JSON.
link_start() {
    XMOTION_RUN_DIR="$WORK/link-$1" python3 "$TOP/tests/faults/proxy.py" --to "127.0.0.1:${PORT[$1]}" \
        --control "$WORK/$1/link" > "$WORK/$1/link.log" 2>&1 < /dev/null &
    wait_for 10 grep -q listening "$WORK/$1/link.log" || return
    LINK[$1]=$(sed -n 's/^listening //p' "$WORK/$1/link.log")
}

link() {
    local host=$1
    shift
    python3 "$TOP/tests/faults/proxy.py" --control "$WORK/$host/link" "$@"
}

# link_figure HOST NAME: one number of its stats.
link_figure() {
    link "$1" stats | python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$2"
}

fingerprint() {
    on "$1" identity | grep -o -m 1 'SHA256:[0-9a-f]\{64\}'
}

# pair SOURCE TARGET: SOURCE may send to TARGET.
pair() {
    on "$2" authorize "$(fingerprint "$1")" --comment "host $1" > /dev/null &&
        on "$1" trust "$(address "$2")" --fingerprint "$(fingerprint "$2")" > /dev/null
}

# guest_start HOST NAME OPTION...: an embedded guest that runs.
guest_start() {
    local host=$1 name=$2
    shift 2
    start "$host" "$WORK/$host/guest-$name.log" guest run "$name" "$@"
    wait_for 20 on "$host" guest stats "$name"
}

# guest_small HOST NAME: one of 64 MiB with two small disks, under load.
guest_small() {
    guest_start "$1" "$2" --memory 64M --disk "$WORK/$1/$2-0.img:64M" --disk "$WORK/$1/$2-1.img:32M" \
        --dirty-rate "${DIRTY_RATE:-8M}" --write-rate "${WRITE_RATE:-4M}"
}

# guest_busy HOST NAME: one whose writes do not let the disks of a move with --downtime 1ms converge.
# guest_dirty HOST NAME: one whose disks are quiet, but whose RAM does not converge with --downtime 20ms.
guest_busy() {
    DIRTY_RATE=20M WRITE_RATE=40M guest_small "$1" "$2"
}

guest_dirty() {
    guest_start "$1" "$2" --memory 256M --disk "$WORK/$1/$2-0.img:32M" --dirty-rate 1G --write-rate 256K
}

# shellcheck disable=SC2034
declare -A TAIL=([disks]=1ms [memory]=20ms)

guest_here() {
    on "$1" guest stats "$2" > /dev/null 2>&1
}

guest_away() {
    ! guest_here "$1" "$2"
}

# guest_runs HOST NAME: it is there and its load goes on.
guest_runs() {
    local before
    before=$(on "$1" guest stats "$2") || return
    wait_for 5 guest_changed "$1" "$2" "$before"
}

guest_changed() {
    [ "$(on "$1" guest stats "$2")" != "$3" ]
}

# ping_start HOST NAME: the heartbeat is measured from now on. ping_stop: it ends; GAP_MS is the longest silence. The
# guest's own count must never have gone back.
ping_start() {
    start "$1" "$WORK/ping.log" guest ping "$2" --json
    PING=$PID
}

ping_stop() {
    kill -TERM "$PING" 2> /dev/null
    wait "$PING" 2> /dev/null
    # shellcheck disable=SC2034 # for who calls it
    GAP_MS=$(python3 -c 'import json, sys
ping = json.load(open(sys.argv[1]))
assert ping["answered"] and not ping["count_went_back"], ping
print(ping["longest_gap_ms"])' "$WORK/ping.log")
}

# send HOST TARGET GUEST [OPTION...]: moves; the events go to $WORK/send.log. Returns its exit code.
send() {
    local host=$1 target=$2 guest=$3
    shift 3
    on "$host" send "$guest" "$(address "$target")" --sr "dir:$WORK/$target/sr" --json "$@" \
        > "$WORK/send.log" 2> "$WORK/send.log.err"
}

# send_start HOST TARGET GUEST [OPTION...]: the same in the background; SENDER is its process.
send_start() {
    local host=$1 target=$2 guest=$3
    shift 3
    start "$host" "$WORK/send.log" send "$guest" "$(address "$target")" --sr "dir:$WORK/$target/sr" --json "$@"
    # shellcheck disable=SC2034
    SENDER=$PID
}

# exits CODE PID: the process ends with this code.
exits() {
    local code=0
    wait "$2" || code=$?
    [ "$code" = "$1" ] || { echo "exit code $code, expected $1"; return 1; }
}

# ends SECONDS PID
ends() {
    wait_for "$1" gone "$2"
}

gone() {
    [ ! -e "/proc/$1" ] || grep -q '^State:[[:space:]]*Z' "/proc/$1/status"
}

# stopped PID: it stands still, by a fault point or a signal.
stopped() {
    grep -q '^State:[[:space:]]*T' "/proc/$1/status"
}

# needs_fault_points: skips the test with a build that has none (-Dfault_points=true); a bad XMOTION_FAULT is refused by one that has.
needs_fault_points() {
    local code=0
    XMOTION_FAULT=none XMOTION_RUN_DIR="$WORK/x" "$XMOTION" guest list > /dev/null 2>&1 || code=$?
    [ "$code" = 2 ] || skip 'this build has no fault points'
}

# has_option COMMAND OPTION
has_option() {
    "$XMOTION" "$1" --help 2>&1 | grep -q -w -e "$2"
}

# result_field PATH [FILE]: a member of the last event, which must be the result: "outcome", "disks.0.size".
result_field() {
    python3 - "$1" "${2:-$WORK/send.log}" <<'PYTHON'
import json
import sys

with open(sys.argv[2], encoding="utf-8") as file:
    lines = [line for line in file if line.strip()]
if not lines:
    sys.exit("no event")
value = json.loads(lines[-1])
if value.get("event") != "result":
    sys.exit(f"the last event is {value.get('event')}, not result")
for part in sys.argv[1].split("."):
    value = value[int(part)] if isinstance(value, list) else value[part]
print(json.dumps(value) if isinstance(value, (dict, list, bool)) else value)
PYTHON
}

# result_is PATH VALUE
result_is() {
    local got
    got=$(result_field "$1") || return
    [ "$got" = "$2" ] || { echo "$1 is $got, expected $2"; return 1; }
}

# copying HOST: a target volume is being filled there.
copying() {
    [ -n "$(find "$WORK/$1/sr" -type f -size +0 -print -quit)" ]
}

# in_phase PHASE: the sender has said that it is in this phase.
in_phase() {
    grep -q "\"phase\": *\"$1\"" "$WORK/send.log"
}

# nothing_left HOST: no volume in the SR and no process but the receiver.
nothing_left() {
    local left pid
    left=$(find "$WORK/$1/sr" -mindepth 1)
    [ -z "$left" ] || { echo "left in the SR: $left"; return 1; }
    for pid in $(processes "$1/"); do
        [ "$pid" = "${RECEIVER[$1]:-}" ] || gone "$pid" || {
            echo "left running: $pid $(tr '\0' ' ' < "/proc/$pid/cmdline")"
            return 1
        }
    done
}

# one_sentence FILE: exactly one line, of some length.
one_sentence() {
    if [ "$(wc -l < "$1")" != 1 ] || [ "$(wc -c < "$1")" -lt 15 ]; then
        echo "not one sentence: $(cat "$1")"
        return 1
    fi
}
