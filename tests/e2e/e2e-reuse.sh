#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An old copy at the target is reused: blocks are compared by their checksums, and only what differs is sent. A copy made from a
# backup, named with --disk; a guest that moves to and fro with --reuse; and a file that is no copy of it is left alone.
#   XMOTION_REUSE_SIZE (512M): the disk
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

SIZE=$(numfmt --from=iec "${XMOTION_REUSE_SIZE:-512M}")

# old_copy FROM TO: 2% of its blocks of 64 KiB, chosen at random, hold something else.
old_copy() {
    python3 - "$1" "$2" <<'PYTHON'
import os
import random
import shutil
import sys
shutil.copyfile(sys.argv[1], sys.argv[2])
blocks = os.path.getsize(sys.argv[2]) >> 16
with open(sys.argv[2], "r+b") as file:
    for block in random.sample(range(blocks), blocks // 50):
        file.seek(block << 16)
        file.write(os.urandom(1 << 16))
PYTHON
}

# sent_at_most PERCENT: of the disk; everything that crossed the wire counts.
sent_at_most() {
    local bytes
    bytes=$(result_field wire_bytes) || return
    echo "# $bytes octets on the wire for a disk of $SIZE: $(python3 -c "print(f'{100 * $bytes / $SIZE:.2f}')") %" | tee -a "$WORK/figures"
    [ $((bytes * 100)) -lt $((SIZE * $1)) ]
}

same() {
    cmp "$1" "$2"
}

refused() {
    ! send "$@" && one_sentence "$WORK/send.log.err"
}

test_begin numfmt
has_option send --reuse || skip 'this xmotion does not reuse copies'
must 'host a starts' host_start a
host_make b
mkdir "$WORK/b/seed"
head -c "$SIZE" /dev/urandom > "$WORK/a/sr/g.img"
old_copy "$WORK/a/sr/g.img" "$WORK/b/seed/g.img"
must 'host b starts' receiver_start b --allow-disk "$WORK/b/seed/g.img"
must 'a may send to b' pair a b
must 'b may send to a' pair b a

must 'the guest runs' guest_start a g --memory 4M --disk "$WORK/a/sr/g.img" --dirty-rate 1M --write-rate 0
must 'it moves onto a copy of which 2% differ' send a b proc:g --disk "disk0=$WORK/b/seed/g.img,reuse"
check 'the disk is verified' result_is disks.0.verified true
check 'less than 4% was sent, checksums counted' sent_at_most 4
check 'the copy equals the disk' same "$WORK/a/sr/g.img" "$WORK/b/seed/g.img"
check 'the guest is whole' on b guest verify g

must 'it moves back onto what it left' send b a proc:g --reuse
check 'back: less than 4% was sent' sent_at_most 4
check 'back: the disks are equal' same "$WORK/a/sr/g.img" "$WORK/b/seed/g.img"
check 'back: the guest is whole' on a guest verify g
must 'the guest ends' on a guest destroy g
rm -f "$WORK"/a/sr/* "$WORK"/b/sr/*

must 'a guest that writes runs' guest_start a w --memory 16M --disk "$WORK/a/sr/w.img:256M" --dirty-rate 1M --write-rate 4M
from=a to=b
for move in 1 2 3 4 5; do
    sleep 1
    must "move $move: with --reuse" send $from $to proc:w --reuse --verify
    check "move $move: verified" result_is disks.0.verified true
    check "move $move: whole" on $to guest verify w
    printf '# move %d: %s octets on the wire\n' "$move" "$(result_field wire_bytes)"
    other=$from from=$to to=$other
done
must 'it ends' on "$from" guest destroy w

must 'a third guest runs' guest_start a o --memory 16M --disk "$WORK/a/o.img:16M" --dirty-rate 1M --write-rate 1M
head -c $((16 << 20)) /dev/urandom > "$WORK/b/sr/o.img"
cp "$WORK/b/sr/o.img" "$WORK/other.img"
check 'a file that is no copy of its disk is refused' refused a b proc:o --reuse
check 'and untouched' same "$WORK/b/sr/o.img" "$WORK/other.img"
check 'the guest runs on' guest_runs a o
cat "$WORK/figures"
test_end
