# shellcheck shell=bash disable=SC2016
# SPDX-License-Identifier: LGPL-2.1-or-later
# The peer that xmotion is measured against, for scenarios: plain "xl migrate" over a plain TCP connection. It does not move disks: both
# hosts have the guest's volumes, equal as nothing is written before the move. The guest's RAM stays busy.

# xl_migrate TYPE: the guest moves from a to b and proves itself there.
xl_migrate() {
    local started
    volumes_create b
    guest_create a "$1" "$LAB_DIRTY" 0
    on a "printf '#!/bin/sh\nexec socat -b 65536 - TCP:10.9.0.2:5000\n' > /tmp/remote; chmod 755 /tmp/remote"
    on b "printf '#!/bin/sh\nexec xl migrate-receive\n' > /tmp/receive; chmod 755 /tmp/receive
        start receive nc -l -p 5000 -e /tmp/receive"
    heartbeat_start
    started=$(now_ms)
    on a "xl migrate -s /tmp/remote vm1 10.9.0.2 > /tmp/migrate.log 2>&1" ||
        { on a cat /tmp/migrate.log; on b cat /var/log/receive.log; fail "xl migrate failed"; }
    TOOK_MS=$(($(now_ms) - started))
    wait_for 20 guest_runs b || fail 'the guest does not run on b'
    guest_absent a || fail 'the guest is still on a'
    sleep 2
    heartbeat_stop
    say "xl migrate of a $1 guest of 128 MiB, disks not counted: $TOOK_MS ms, silent for $GAP_MS ms"
    guest_verify b
    guest_ask b 10 rates "$LAB_DIRTY" "$LAB_WRITE" > /dev/null || fail 'the guest does not take other rates'
    sleep 3
    guest_verify b
}

# side_by_side TYPE: "xl migrate", then xmotion, of the same guest between the same hosts.
side_by_side() {
    local total silent
    xl_migrate "$1"
    total=$TOOK_MS silent=$GAP_MS
    hosts_clean || fail 'the hosts cannot be cleaned'
    move "$1"
    say "$1 guest of 128 MiB     total      silent"
    say "xl migrate, RAM alone    $total ms   $silent ms"
    say "xmotion, with disks      $(result total_ms) ms   $GAP_MS ms"
    say "xmotion, disk time apart $(($(result total_ms) - $(result disks_ms))) ms, $((100 * ($(result total_ms) - $(result disks_ms)) / total)) % of xl's; silence $((100 * GAP_MS / silent)) % of xl's"
}
