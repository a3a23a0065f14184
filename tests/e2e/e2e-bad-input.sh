#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Bad input: each is met by exactly one sentence on stderr and a non-zero exit code, nothing moves, nothing is left.
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

# bad CODES COMMAND...: host a runs xmotion COMMAND; CODES is a regular expression of allowed exit codes.
bad() {
    local codes=$1 code=0
    shift
    XMOTION_STATE_DIR="$WORK/a/state" XMOTION_RUN_DIR="$WORK/a/run" timeout -k 5 30 "$XMOTION" "$@" \
        > "$WORK/bad.out" 2> "$WORK/bad.err" < /dev/null || code=$?
    [[ $code =~ ^($codes)$ ]] || { echo "exit code $code, expected $codes: $(cat "$WORK/bad.err")"; return 1; }
    one_sentence "$WORK/bad.err" && nothing_left b
}

# offers: the receiver's SRs and the volume that it opens to peers.
offers() {
    receiver_start b --sr "dir:$WORK/small" --allow-disk "$WORK/b/fixed.img"
}

# small_sr: an SR with 8 MiB of space.
small_sr() {
    mkdir -p "$WORK/small" && mount -t tmpfs -o size=8m,mode=700 tmpfs "$WORK/small"
}

test_begin
must 'host a starts' host_start a
host_make b
have_small=yes
small_sr 2> /dev/null || have_small=no
truncate -s 16M "$WORK/b/fixed.img"
truncate -s 64M "$WORK/b/other.img"
must 'host b starts' offers
must 'they are paired' pair a b
must 'the guest runs' guest_small a g
must 'a guest that b has too' guest_small a twin
must 'and there' guest_start b twin --memory 32M --disk "$WORK/b/twin.img:32M"
# That guest is no leftover.
mapfile -t twin < <(processes b/)
B=$(address b)
SR="dir:$WORK/b/sr"

nothing_left() {
    local left
    left=$(find "$WORK/b/sr" "$WORK/small" -mindepth 1)
    [ -z "$left" ] || { echo "left in an SR: $left"; return 1; }
    left=$(processes "$1/" | while read -r pid; do gone "$pid" || echo "$pid"; done | paste -s -d ' ')
    [ "$left" = "${twin[*]}" ] || { echo "runs: $left, before: ${twin[*]}"; return 1; }
}

usage=2
refused='1|2|3'
check 'unknown command' bad $usage teleport
check 'unknown option' bad $usage send proc:g "$B" --sr "$SR" --fast
check 'no guest' bad $usage send
check 'no host' bad $usage send proc:g
check 'one argument too many' bad $usage send proc:g "$B" here --sr "$SR"
check 'an empty guest' bad "$refused" send '' "$B" --sr "$SR"
for value in 300x -1 ms '' 1e99h 99999999999999999999s; do
    check "--downtime '$value'" bad $usage send proc:g "$B" --sr "$SR" --downtime "$value"
    check "--timeout '$value'" bad $usage send proc:g "$B" --sr "$SR" --timeout "$value"
done
for value in 0 65 -1 two 4x; do
    check "--connections $value" bad $usage send proc:g "$B" --sr "$SR" --connections "$value"
done
check '--compress lzo' bad $usage send proc:g "$B" --sr "$SR" --compress lzo
check '--on-timeout sulk' bad $usage send proc:g "$B" --sr "$SR" --on-timeout sulk
check '--sr floppy:1' bad "$refused" send proc:g "$B" --sr floppy:1
check '--sr without a name' bad "$refused" send proc:g "$B" --sr dir:
check '--disk without a path' bad $usage send proc:g "$B" --disk disk0
check '--ca alone' bad $usage send proc:g "$B" --sr "$SR" --ca /dev/null
check 'a port that is none' bad "$refused" send proc:g 127.0.0.1:99999 --sr "$SR"
check 'recv: an address that is none' bad "$refused" recv --listen 127.0.0.1:port
check 'recv: an SR that is not there' bad "$refused" recv --listen 127.0.0.1:0 --sr "dir:$WORK/none"
check 'recv: a port that is taken' bad "$refused" recv --listen "$B" --sr "dir:$WORK/a/sr"
check 'authorize: not a fingerprint' bad $usage authorize SHA256:xyz
check 'guest run: no memory for it' bad "$refused" guest run x --memory 64K --disk "$WORK/a/x.img:1G"
check 'guest verify: unknown' bad "$refused" guest verify nobody
check 'cancel: unknown' bad "$refused" cancel nobody

check 'unknown guest' bad "$refused" send proc:nobody "$B" --sr "$SR"
check 'no such host' bad "$refused" send proc:g no-such-host.invalid --sr "$SR"
check 'connection refused' bad "$refused" send proc:g "127.0.0.1:$(free_port)" --sr "$SR"
check 'name already taken' bad "$refused" send proc:twin "$B" --sr "$SR"
check 'an SR that the receiver does not open' bad "$refused" send proc:g "$B" --sr "dir:$WORK/b"
check 'an SR by a tricky path' bad "$refused" send proc:g "$B" --sr "$SR/../state"
check 'a disk of another size' bad "$refused" send proc:g "$B" --sr "$SR" --disk "disk0=$WORK/b/fixed.img"
check 'a volume that is not opened to peers' bad "$refused" send proc:g "$B" --sr "$SR" --disk "disk0=$WORK/b/other.img"
check 'a disk that the guest has not' bad "$refused" send proc:g "$B" --sr "$SR" --disk "disk9=$WORK/b/fixed.img"
if [ $have_small = yes ]; then
    check 'a target without space' bad "$refused" send proc:g "$B" --sr "dir:$WORK/small"
else
    echo '# target without space: not tried, as no tmpfs can be mounted here'
fi
check 'check says the same' bad 3 check proc:twin "$B" --sr "$SR"
check 'the guest runs on' guest_runs a g
check 'the guest is whole' on a guest verify g
check 'and moves when asked rightly' send a b proc:g
test_end
