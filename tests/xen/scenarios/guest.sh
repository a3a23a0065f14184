# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A PVH guest on host a dirties its RAM, writes to both its disks, proves itself whole, and is heard from host b.
# hosts: stock

guest_create a pvh
heartbeat_start
before=$(guest_ask a 5 status)
sleep 5
after=$(guest_ask a 5 status)
say "after 5 s: $after"
[ "$(awk '{ print $4 }' <<< "$after")" -gt "$(awk '{ print $4 }' <<< "$before")" ] || fail "no RAM is dirtied: $after"
[ "$(awk '{ print $6 }' <<< "$after")" -gt "$(awk '{ print $6 }' <<< "$before")" ] || fail "nothing is written: $after"
heartbeat_stop
[ "$GAP_MS" -lt 2000 ] || fail "the guest was silent for $GAP_MS ms"
guest_verify a
