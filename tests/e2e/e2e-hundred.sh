#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A small guest under full load moves to and fro, each move verified.
#   tests/e2e/e2e-hundred.sh [MOVES]      default: $XMOTION_MOVES or 100
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

MOVES=${1:-${XMOTION_MOVES:-100}}

test_begin
must 'host a starts' host_start a
must 'host b starts' host_start b
must 'a may send to b' pair a b
must 'b may send to a' pair b a
must 'the guest runs' guest_start a g --memory 64M --disk "$WORK/a/g.img:256M" --dirty-rate 40M --write-rate 10M
from=a to=b
for ((move = 1; move <= MOVES; move++)); do
    must "move $move, $from to $to" send $from $to proc:g --remove-source-disks
    must "move $move: whole" on $to guest verify g
    must "move $move: gone from $from" guest_away $from g
    printf '# move %d: %s ms, downtime %s ms\n' "$move" "$(result_field total_ms)" "$(result_field downtime_ms)"
    other=$from from=$to to=$other
done
check 'the source has no volume left' nothing_left "$to"
test_end
