# shellcheck shell=bash disable=SC2016,SC2034
# SPDX-License-Identifier: LGPL-2.1-or-later
# A guest that dirties its RAM faster than it can be carried: with --on-timeout throttle its processor is capped until the stop fits,
# and the cap is what it was afterwards: when sender and agent are killed and recovery runs, and when the guest has moved.
# hosts: stock
# needs: xmotion

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"

# cap HOST: of vm1, percent of a processor; 0 none.
cap() {
    on "$1" 'xl sched-credit2 -d vm1' | awk '$1 == "vm1" { print $4 }'
}

is_capped() {
    [ "$(cap a)" -gt 0 ]
}

DISKS=(vm1-root:24 vm1-swap:8)
LAB_SEND_OPTIONS='--timeout 5s --on-timeout throttle'
LAB_DOWNTIME=1500ms
guest_create a pvh 65536 64
pair_hosts
on a 'xl sched-credit2 -d vm1 -c 90' || fail 'the scheduler knows no cap'

send_start
wait_for 300 is_capped && wait_for 300 eval '[ "$(cap a)" -lt 90 ]' || fail "the guest is not slowed down: cap $(cap a)"
say "slowed down to $(cap a)% of a processor, 90% were allowed before"
on a 'kill -9 $(cat /run/send.job) $(pidof xmotion-xen) $(pidof xmotion-save-helper)' || true
sleep 2
[ "$(cap a)" -lt 90 ] || fail 'the cap came back with nobody to put it back'
on a 'xmotion recover' || fail 'recovery fails'
[ "$(cap a)" = 90 ] || fail "the cap is $(cap a)% after recovery, it was 90%"
guest_stayed

send_start
send_wait
[ "$(result outcome)" = moved ] || fail "the outcome is $(result outcome): $(result error)"
on a "grep -o '\"throttle[a-z_]*\":[0-9.]*' /var/log/send.log | uniq" || true
wait_for 20 guest_runs b || fail 'the guest does not run on b'
[ "$(cap b)" = 90 ] || [ "$(cap b)" = 0 ] || fail "the guest came with a cap of $(cap b)%"
guest_verify b
say "downtime $(result downtime_ms) ms, $LAB_DOWNTIME was asked for; the cap on b is $(cap b)"
