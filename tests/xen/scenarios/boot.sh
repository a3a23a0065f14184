# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Both hosts are up with Xen, two volume groups and the wire between them; volumes survive a power failure.
# hosts: stock

for host in a b; do
    [ "$(on "$host" 'vgs --noheadings -o vg_name' | tr -d ' ' | xargs)" = 'vg0 vg1' ] || fail "no volume groups in host $host"
    say "host $host: $(on "$host" 'xl info' | awk '/^xen_version|^free_memory|^nr_cpus/ { printf "%s %s, ", $1, $3 }')"
    on "$host" 'test -s /sys/kernel/btf/vmlinux' || fail "no BTF in host $host"
done
on a 'ping -c 2 10.9.0.2' > /dev/null || fail 'host a does not reach host b'
link_cut
! on a 'ping -c 1 -W 1 10.9.0.2' > /dev/null || fail 'the wire was cut and carries'
link_up
wait_for 20 on a 'ping -c 1 -W 1 10.9.0.2' || fail 'the wire does not come back'

on b 'lvcreate -q -y -Zn -Wn -L 8M -n kept vg1 && echo kept > /dev/vg1/kept && sync' > /dev/null 2>&1 || fail 'no volume on b'
on b 'echo synced > /var/lib/xmotion/synced && sync && echo not > /var/lib/xmotion/unsynced'
host_power_cut b
host_power_on b || fail 'host b does not come up again'
[ "$(on b 'cat /var/lib/xmotion/synced')" = synced ] || fail "a host's state did not survive"
[ -z "$(on b 'cat /var/lib/xmotion/unsynced' 2> /dev/null)" ] || fail 'what was not synced survived: the power cut is none'
[ "$(on b 'head -n 1 /dev/vg1/kept')" = kept ] || fail 'the volume did not survive'
