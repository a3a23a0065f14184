#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An embedded guest under load moves with its disks; every part of the result is checked.
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

# gap_fits: the guest was silent as long as the result says, within 20% and what a heartbeat can resolve (20 ms). On a busy
# machine it is silent at other times too, so the one gap that fits is looked for among the longest.
gap_fits() {
    python3 - "$WORK/ping.log" "$(result_field downtime_ms)" <<'PYTHON'
import json
import sys
with open(sys.argv[1], encoding="utf-8") as file:
    gaps = [gap["length_ms"] for gap in json.load(file)["gaps"]]
downtime = float(sys.argv[2])
print(f"heartbeat gaps {gaps} ms, reported downtime {downtime} ms")
sys.exit(not any(abs(gap - downtime) <= max(0.2 * downtime, 20) for gap in gaps))
PYTHON
}

parts_fit() {
    python3 - "$(result_field downtime_parts)" "$(result_field downtime_ms)" <<'PYTHON'
import json
import sys
parts, downtime = json.loads(sys.argv[1]), float(sys.argv[2])
print(parts, downtime)
sys.exit(not parts or any(v < 0 or v > downtime + 1 for v in parts.values()))
PYTHON
}

# numbers_fit: memory and disks in the result are what the guest has.
numbers_fit() {
    [ "$(result_field memory.pages)" = $((64 << 8)) ] &&
        [ "$(result_field memory.sent_pages)" -gt 0 ] &&
        [ "$(result_field disks.0.size)" = $((64 << 20)) ] &&
        [ "$(result_field disks.1.size)" = $((32 << 20)) ] &&
        [ "$(result_field disks.1.passes)" -ge 1 ] &&
        [ "$(result_field wire_bytes)" -gt 0 ]
}

# sizes_exact: two files at the target, with the disks' exact sizes.
sizes_exact() {
    [ "$(find "$WORK/b/sr" -type f -printf '%s\n' | sort -n | paste -s -d ' ')" = "$((32 << 20)) $((64 << 20))" ]
}

test_begin
must 'host a starts' host_start a
must 'host b starts' host_start b
must 'they are paired' pair a b
must 'the guest runs' guest_small a g
ping_start a g
sleep 1
must 'it moves' send a b proc:g --capture "$WORK/capture"
sleep 1
check 'the heartbeat was measured' ping_stop
check 'the result says moved' result_is outcome moved
check 'and which guest' result_is guest g
check 'every disk is verified' result_is disks.0.verified true
check 'every disk is verified (2)' result_is disks.1.verified true
check 'the numbers are the guest'\''s' numbers_fit
check 'the parts lie within the downtime' parts_fit
check 'the heartbeat gap is the downtime' gap_fits
check 'the guest runs at the target' guest_runs b g
check 'it is gone from the source' guest_away a g
check 'its RAM and disks are whole' on b guest verify g
check 'the volumes have the exact sizes' sizes_exact
check 'the independent reader accepts the capture' "$TOP/tools/verify-stream.py" "$WORK/capture"
test_end
