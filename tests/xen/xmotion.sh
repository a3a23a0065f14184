# shellcheck shell=bash disable=SC2016
# SPDX-License-Identifier: LGPL-2.1-or-later
# Moves with xmotion, for scenarios: vm1 from host a to volume group vg1 of host b.

RECEIVER=10.9.0.2:7799
LAB_DOWNTIME=${LAB_DOWNTIME:-5s}     # what emulation needs for one stop
LAB_DIRTY=${LAB_DIRTY:-2048}      # KiB a second; more than the emulated hosts can carry never converges
LAB_WRITE=${LAB_WRITE:-256}
# A loaded machine may never carry the load; and latency is that of emulated processors, which no brake on the disks mends.
LAB_SEND_OPTIONS=${LAB_SEND_OPTIONS---timeout 3m --on-timeout stop --no-brake}
LAB_MOVE_LIMIT=${LAB_MOVE_LIMIT:-900} # seconds

# receiver_start: a receiver on host b that listens.
receiver_start() {
    on b "start recv xmotion recv --listen $RECEIVER --sr lvm:vg1 --json"
    wait_for 30 on b 'nc -w 1 10.9.0.2 7799 < /dev/null 2> /dev/null' || { on b cat /var/log/recv.log; fail 'the receiver does not listen'; }
}

# pair_hosts: b takes guests from a, and a knows b.
pair_hosts() {
    local fingerprint
    fingerprint=$(on a xmotion identity) || fail 'host a has no identity'
    on b "xmotion authorize $fingerprint" > /dev/null || fail 'b does not authorize a'
    receiver_start
    on a "xmotion trust $RECEIVER --fingerprint $(on b xmotion identity)" > /dev/null || fail 'a does not trust b'
}

# send_start: begins to move vm1, with more options of "xmotion send" from LAB_SEND_OPTIONS.
send_start() {
    on a "start send xmotion send vm1 $RECEIVER --sr lvm:vg1 --downtime $LAB_DOWNTIME --json $LAB_SEND_OPTIONS"
}

# send_reaches PHASE: waits until the move is in its phase "disks" or "memory" and has got on with it.
send_reaches() {
    wait_for "$LAB_MOVE_LIMIT" on a "[ -e /run/send.rc ] || grep '\"event\":\"progress\"' /var/log/send.log | grep -q '\"phase\":\"$1\"'"
    if on a '[ -e /run/send.rc ]'; then
        on a 'tail -n 3 /var/log/send.log'
        fail "the move ended before it was in phase $1"
    fi
}

# send_wait: waits for the end of the move; RESULT is its last event. It waits in the host, without a process of its own every now and
# then: to be asked from here costs an emulated host more than it does for the move meanwhile.
send_wait() {
    LAB_ON_LIMIT=$LAB_MOVE_LIMIT on a 'exec 3<> <(:); until [ -e /run/send.rc ]; do read -r -t 0.2 -u 3; done; true' ||
        { on a 'tail -n 3 /var/log/send.log'; fail "the move has not ended after $LAB_MOVE_LIMIT s"; }
    RESULT=$(on a "grep '\"event\":\"result\"' /var/log/send.log") || { on a 'tail -n 3 /var/log/send.log'; fail 'the move had no result'; }
    say "result: $RESULT"
}

# result NAME: a text or the whole part of a number of RESULT.
result() {
    sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",.}]*\).*/\1/p" <<< "$RESULT"
}

# move_measured TYPE: moves a busy guest, which is whole then; GAP_MS is how long it was silent.
move_measured() {
    guest_create a "$1" "$LAB_DIRTY" "$LAB_WRITE"
    pair_hosts
    heartbeat_start
    send_start
    send_wait
    sleep 2
    heartbeat_stop
    [ "$(result outcome)" = moved ] || fail "the outcome is $(result outcome): $(result error)"
    wait_for 20 guest_runs b || fail 'the guest does not run on b'
    wait_for 20 guest_absent a || fail 'the guest is still on a'
    guest_verify b
    say "moved in $(result total_ms) ms, downtime $(result downtime_ms) ms, silent for $GAP_MS ms"
}

# move TYPE: moves a busy guest and checks all that a move promises.
move() {
    local downtime
    move_measured "$1"
    downtime=$(result downtime_ms)
    if [ $((GAP_MS * 100)) -lt $((downtime * 80)) ] || [ $((GAP_MS * 100)) -gt $((downtime * 120)) ]; then
        fail "a downtime of $downtime ms is reported, the guest was silent for $GAP_MS ms"
    fi
    sleep 3
    guest_verify b
}

# guest_stayed: after a move that failed the guest runs on at a, whole, and b has nothing of it.
guest_stayed() {
    wait_for 60 guest_runs a || fail 'the guest does not run on a'
    guest_verify a
    wait_for 120 guest_absent b || fail 'a domain is left on b'
    wait_for 60 volumes_absent b vg1 || fail "volumes are left on b: $(volumes b vg1 | xargs)"
}

volumes_absent() {
    [ -z "$(volumes "$1" "$2")" ]
}

# phase_begins PHASE TIMES: waits until the move has been in PHASE that often.
phase_begins() {
    wait_for "$LAB_MOVE_LIMIT" on a "[ -e /run/send.rc ] || [ \$(sed -n '/\"event\":\"progress\"/s/.*\"phase\":\"\([a-z]*\)\".*/\1/p' \
        /var/log/send.log | uniq | grep -c $1) -ge $2 ]"
    if on a '[ -e /run/send.rc ]'; then
        on a 'tail -n 3 /var/log/send.log'
        fail "the move ended before it was in phase $1 ($2)"
    fi
}

# broken_move BREAK MEND: a move in which BREAK happens in its disk phase and in its memory phase, and MEND each time when the sender
# has noticed: the guest runs on meanwhile, and the move goes on.
broken_move() {
    local phase times=0
    guest_create a pvh "$LAB_DIRTY" "$LAB_WRITE"
    pair_hosts
    send_start
    for phase in disks memory; do
        phase_begins "$phase" 1
        times=$((times + 1))
        "$1"
        phase_begins reconnect "$times"
        say "$1 in phase $phase"
        wait_for 60 guest_runs a || fail 'the guest does not run on a'
        "$2"
        wait_for "$LAB_MOVE_LIMIT" on a "! tail -n 1 /var/log/send.log | grep -q '\"phase\":\"reconnect\"'" ||
            fail 'the move does not go on'
    done
    send_wait
    [ "$(result outcome)" = moved ] || fail "the outcome is $(result outcome): $(result error)"
    wait_for 20 guest_runs b || fail 'the guest does not run on b'
    wait_for 20 guest_absent a || fail 'the guest is still on a'
    guest_verify b
}

# capture_accepted: the independent reader takes what "--capture /run/capture" has kept of the move.
capture_accepted() {
    on a 'tar -c -f - -C /run capture' > "$RUN/capture.tar" && tar -x -f "$RUN/capture.tar" -C "$RUN" ||
        fail 'the capture cannot be fetched'
    "$VM_TOP/tools/verify-stream.py" "$RUN/capture" > "$RUN/reader.log" 2>&1 ||
        { tail -n 5 "$RUN/reader.log"; fail 'the independent reader does not accept the capture'; }
    say "the independent reader: $(tail -n 1 "$RUN/reader.log")"
}
