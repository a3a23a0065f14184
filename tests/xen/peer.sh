# shellcheck shell=bash disable=SC2016
# SPDX-License-Identifier: LGPL-2.1-or-later
# The peer that xmotion is measured against, for scenarios: "xl migrate", over plain TCP and, as everything else that is compared, over
# TLS 1.3 with certificates at both ends (socat). It does not move disks: both hosts have the guest's volumes, equal as nothing is written
# before the move. The guest's RAM stays busy.

# peer_certificates: a CA, and one certificate that both hosts show.
peer_certificates() {
    local make=(openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2) host
    vm_need openssl:openssl &&
        "${make[@]}" -subj '/CN=lab CA' -keyout "$RUN/ca.key" -out "$RUN/ca.pem" 2> /dev/null &&
        "${make[@]}" -subj /CN=host -addext basicConstraints=CA:FALSE -CA "$RUN/ca.pem" -CAkey "$RUN/ca.key" \
            -keyout "$RUN/host.key" -out "$RUN/host.crt" 2> /dev/null &&
        cat "$RUN/host.key" "$RUN/host.crt" > "$RUN/host.pem" || fail 'no certificates'
    for host in a b; do
        put "$RUN/ca.pem" "$host" /tmp/ca.pem && put "$RUN/host.pem" "$host" /tmp/host.pem || fail 'no certificates'
    done
}

# xl_connections HOW: "plain" or "tls". What a hands the guest to, and what waits for it at b.
xl_connections() {
    local to=TCP:10.9.0.2:5000 from=TCP-LISTEN:5000 tls=cert=/tmp/host.pem,cafile=/tmp/ca.pem,verify=1,openssl-min-proto-version=TLS1.3
    if [ "$1" = tls ]; then
        peer_certificates
        to=OPENSSL:10.9.0.2:5000,$tls,commonname=host from=OPENSSL-LISTEN:5000,$tls
    fi
    on a "printf '#!/bin/sh\nexec socat -b 65536 - $to\n' > /tmp/remote; chmod 755 /tmp/remote"
    on b "start receive socat -b 65536 $from EXEC:'xl migrate-receive'"
}

# xl_migrate TYPE HOW: the guest moves from a to b and proves itself there.
xl_migrate() {
    local started
    volumes_create b
    guest_create a "$1" "$LAB_DIRTY" 0
    xl_connections "$2"
    heartbeat_start
    started=$(now_ms)
    on a "xl migrate -s /tmp/remote vm1 10.9.0.2 > /tmp/migrate.log 2>&1" ||
        { on a cat /tmp/migrate.log; on b cat /var/log/receive.log; fail "xl migrate failed"; }
    TOOK_MS=$(($(now_ms) - started))
    wait_for 20 guest_runs b || fail 'the guest does not run on b'
    guest_absent a || fail 'the guest is still on a'
    sleep 2
    heartbeat_stop
    say "xl migrate ($2) of a $1 guest of 128 MiB, disks not counted: $TOOK_MS ms, silent for $GAP_MS ms"
    guest_verify b
    guest_ask b 10 rates "$LAB_DIRTY" "$LAB_WRITE" > /dev/null || fail 'the guest does not take other rates'
    sleep 3
    guest_verify b
    hosts_clean || fail 'the hosts cannot be cleaned'
}

# beside WHO TOTAL SILENT: xmotion's result in parts of theirs; disks have their own time: copied, and of preparing the volumes and trackers.
beside() {
    local apart=$(($(result total_ms) - $(result disks_ms) - $(result of_prepare_disks_ms)))
    printf '  %-34s %7d ms %7d ms    xmotion: %d %% of it (disks apart), %d %%\n' "$1" "$2" "$3" $((100 * apart / $2)) $((100 * GAP_MS / $3))
}

# side_by_side TYPE: "xl migrate", then xmotion, of the same guest between the same hosts.
side_by_side() {
    local plain=() tls=()
    xl_migrate "$1" plain
    plain=("$TOOK_MS" "$GAP_MS")
    xl_migrate "$1" tls
    tls=("$TOOK_MS" "$GAP_MS")
    move_measured "$1"
    say "$1 guest of 128 MiB                   total     silent"
    beside 'xl migrate, RAM alone, plain TCP' "${plain[@]}"
    beside 'xl migrate, RAM alone, TLS 1.3' "${tls[@]}"
    printf '  %-34s %7d ms %7d ms    of the total %d ms are the disks, %d ms more making and opening them\n' 'xmotion, with disks, TLS 1.3' \
        "$(result total_ms)" "$GAP_MS" "$(result disks_ms)" "$(result of_prepare_disks_ms)"
}
