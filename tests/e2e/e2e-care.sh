#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Options that go easy on somebody: --max-bandwidth on the network, --on-timeout=throttle on the copy, --verify on who doubts the disk.
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

# rate_at_most OCTETS: what went over the wire while the guest ran, by the time that it took; a tenth is for the last pass,
# which has no limit.
rate_at_most() {
    python3 - "$1" "$WORK/send.log" <<'PYTHON'
import json, sys
r = json.loads(open(sys.argv[2]).read().splitlines()[-1])
seconds = (r["total_ms"] - r["downtime_ms"]) / 1000
rate = r["wire_bytes"] / seconds
print(f"{rate:.0f} octets a second")
sys.exit(rate > int(sys.argv[1]) * 1.1)
PYTHON
}

# throttled: the sender said that the guest got less than all of its processor time.
throttled() {
    grep -q '"throttled_percent":[1-9]' "$WORK/send.log"
}

test_begin
must 'host a starts' host_start a
must 'host b starts' host_start b
must 'they are paired' pair a b

must 'a guest runs' guest_start a slow --memory 64M --disk "$WORK/a/slow.img:64M" --dirty-rate 1M --write-rate 1M
check 'it moves with --max-bandwidth 8M' send a b proc:slow --max-bandwidth 8M --downtime 100ms
check 'at no more than that' rate_at_most $((8 << 20))
check 'it is whole' on b guest verify slow

must 'a guest that does not converge' guest_dirty a busy
check 'it moves with --on-timeout throttle' send a b proc:busy --downtime 20ms --timeout 2s --on-timeout throttle
check 'it was slowed down' throttled
check 'it is whole (2)' on b guest verify busy

must 'another that does not converge' guest_dirty a other
send_start a b proc:other --downtime 1ms --timeout 1s --on-timeout throttle
check 'it is slowed down' wait_for 60 throttled
kill -9 "$SENDER"
wait "$SENDER" 2> /dev/null
check 'the sender is killed: it runs on' guest_runs a other
check 'with all of its processor time' on a recover
check 'it is whole (3)' on a guest verify other

must 'one more' guest_small a proven
check 'it moves with --verify' send a b proc:proven --verify --downtime 10s
check 'its disks are verified' result_is disks.0.verified true
check 'it is whole (4)' on b guest verify proven
test_end
