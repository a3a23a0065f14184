# shellcheck shell=bash disable=SC2016
# SPDX-License-Identifier: LGPL-2.1-or-later
# The peer that xmotion is measured against, for scenarios: plain "xl migrate" over nc. It does not move disks, so
# they are copied beforehand while the guest writes to none; its RAM stays busy.

# xl_migrate TYPE: the guest moves from a to b and proves itself there.
xl_migrate() {
    local disk started took
    guest_create a "$1" 4096 1024
    sleep 3
    guest_ask a 10 rates 4096 0 > /dev/null || fail 'the guest does not take other rates'
    volumes_create b
    for disk in "${DISKS[@]}"; do
        disk=${disk%:*}
        on b "start copy sh -c 'socat -u TCP-LISTEN:5001,reuseaddr - | dd of=/dev/vg0/$disk bs=1M oflag=direct iflag=fullblock'"
        on a "dd if=/dev/vg0/$disk bs=1M iflag=direct 2> /dev/null | socat -u - TCP:10.9.0.2:5001,retry=50,interval=0.1" || fail "cannot copy $disk"
        on b 'cat /var/log/copy.log; until [ -e /run/copy.rc ]; do sleep 0.1; done; exit $(cat /run/copy.rc)' || fail "cannot copy $disk"
    done
    say 'the disks are copied'
    on a "printf '#!/bin/sh\nexec nc 10.9.0.2 5000\n' > /tmp/remote; chmod 755 /tmp/remote"
    on b "printf '#!/bin/sh\nexec xl migrate-receive\n' > /tmp/receive; chmod 755 /tmp/receive
        start receive nc -l -p 5000 -e /tmp/receive"
    heartbeat_start
    started=$(now_ms)
    on a "xl migrate -s /tmp/remote vm1 10.9.0.2 > /tmp/migrate.log 2>&1" ||
        { on a cat /tmp/migrate.log; on b cat /var/log/receive.log; fail "xl migrate failed"; }
    took=$(($(now_ms) - started))
    wait_for 20 guest_runs b || fail 'the guest does not run on b'
    guest_absent a || fail 'the guest is still on a'
    sleep 2
    heartbeat_stop
    say "xl migrate of a $1 guest of 128 MiB, disks not counted: $took ms, silent for $GAP_MS ms"
    guest_verify b
    guest_ask b 10 rates 4096 1024 > /dev/null || fail 'the guest does not take other rates'
    sleep 3
    guest_verify b
}
