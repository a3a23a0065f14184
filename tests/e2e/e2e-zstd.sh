#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The same with zstd: what compresses is sent compressed, and the copy is whole. A move without it is the measure.
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

# sent_less THAN: the text fills the disk, so that zstd must save more than half.
sent_less() {
    local now
    now=$(result_field wire_bytes) || return
    echo "$now octets with zstd, $1 without"
    [ $((now * 2)) -lt "$1" ]
}

# text_guest HOST NAME: a quiet guest whose second disk is full of text.
text_guest() {
    guest_start "$1" "$2" --memory 32M --disk "$WORK/$1/$2-0.img:32M" --disk "$WORK/$1/$2-1.img:128M" \
        --dirty-rate 1M --write-rate 0
}

test_begin zstd
must 'host a starts' host_start a
must 'host b starts' host_start b
must 'they are paired' pair a b
yes 'xmotion moves a running guest with its disks' | head -c $((128 << 20)) > "$WORK/text"
for name in plain packed; do
    cp "$WORK/text" "$WORK/a/$name-1.img"
    must "the guest $name runs" text_guest a "$name"
done
must 'one moves without compression' send a b proc:plain --compress none
plain=$(result_field wire_bytes)
must 'one moves with zstd' send a b proc:packed --compress zstd --connections 1 --capture "$WORK/capture"
check 'the result says moved' result_is outcome moved
check 'less was sent' sent_less "$plain"
check 'its RAM and disks are whole' on b guest verify packed
check 'the text arrived' grep -r -q -m 1 'xmotion moves a running guest' "$WORK/b/sr"
# Over one connection the order of all blocks is known: the digests must come out, with no note.
decided() {
    "$TOP/tools/verify-stream.py" "$WORK/capture" > "$WORK/reader.log" || { cat "$WORK/reader.log"; return 1; }
    ! grep '^note' "$WORK/reader.log"
}
check 'the independent reader accepts the capture and its digests' decided
test_end
