#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The link of a disk copy is cut again and again at random: what was acknowledged is not sent again, and the copy ends verified.
#   XMOTION_RESUME_SIZE (512M): the disk; XMOTION_RESUME_CUTS: cuts, default 20 for 4G, in proportion, 3 at least
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

SIZE=$(numfmt --from=iec "${XMOTION_RESUME_SIZE:-512M}")
CUTS=${XMOTION_RESUME_CUTS:-$((SIZE / (4 << 30) * 20 + SIZE % (4 << 30) * 20 / (4 << 30)))}
[ "$CUTS" -ge 3 ] || CUTS=3
SEED=${XMOTION_RESUME_SEED:-$$}
RANDOM=$SEED

# cuts_chosen: each at a random place of its share of the disk; the link is back a moment later.
cuts_chosen() {
    local i share=$((SIZE / (CUTS + 1))) places=()
    for ((i = 1; i <= CUTS; i++)); do
        places+=($((i * share - share / 4 + share / 2 * RANDOM / 32768)))
    done
    link b cut-each 0.3 "${places[@]}"
}

all_cut() {
    [ "$(link_figure b cuts)" = "$CUTS" ]
}

# sent_less: by the link's own count, not the sender's.
sent_less() {
    local up
    up=$(link_figure b up)
    echo "# $up octets crossed the link for a disk of $SIZE: $(python3 -c "print(f'{$up / $SIZE:.4f}')") times" | tee -a "$WORK/figures"
    [ $((up * 100)) -lt $((SIZE * 105)) ]
}

same() {
    cmp "$WORK/a/g.img" "$(find "$WORK/b/sr" -type f)"
}

test_begin numfmt openssl
has_option send --reconnect-for || skip 'this xmotion does not resume'
must 'host a starts' host_start a
must 'host b starts' host_start b
must 'the link is there' link_start b
must 'they are paired' pair a b
openssl enc -aes-128-ctr -nosalt -K 000102030405060708090a0b0c0d0e0f -iv "$(printf %032x "$SEED")" < /dev/zero 2> /dev/null |
    head -c "$SIZE" > "$WORK/a/g.img"
must "its link will be cut $CUTS times (seed $SEED)" cuts_chosen
must 'the guest runs' guest_start a g --memory 16M --disk "$WORK/a/g.img" --dirty-rate 1M --write-rate 0
send_start a b proc:g --reconnect-for 1m --timeout 1h
check 'the sender ends' ends 900 "$SENDER"
check 'and has moved it' exits 0 "$SENDER"
check 'every cut was made' all_cut
check 'the disk is verified' result_is disks.0.verified true
check 'less than 1.05 times the data was sent' sent_less
cat "$WORK/figures"
check 'the guest runs at the target' guest_runs b g
check 'it is whole' on b guest verify g
check 'the copy equals the disk' same
check 'it is gone from the source' guest_away a g
test_end
