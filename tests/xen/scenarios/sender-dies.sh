# shellcheck shell=bash disable=SC2016
# SPDX-License-Identifier: LGPL-2.1-or-later
# The sender is killed while it copies disks, then while it copies memory: the guest runs on at the source, and recovery there has
# the receiver remove its part.
# hosts: stock
# needs: xmotion

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"

guest_create a pvh "$LAB_DIRTY" "$LAB_WRITE"
pair_hosts
for phase in disks memory; do
    send_start
    send_reaches "$phase"
    on a 'kill -9 $(cat /run/send.job)'
    say "the sender is killed in phase $phase"
    wait_for 60 guest_runs a || fail 'the guest does not run on a'
    on a 'xmotion recover' || fail 'recovery at the source does not end it'
    guest_stayed
done
