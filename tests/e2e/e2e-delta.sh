#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What changed in pages that both ends have is sent instead of the pages: with compression, when both ends agree to it, and only then.
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

# parts_guest HOST NAME: a guest that changes a part of every page, many times a second: rounds do not get small.
parts_guest() {
    guest_start "$1" "$2" --memory 32M --disk "$WORK/$1/$2-0.img:1M" --dirty-rate 400M --dirty-part 128
}

# send_rounds HOST TARGET NAME OPTION...: rounds go on for three seconds, then it stops whatever is left.
send_rounds() {
    local host=$1 target=$2 name=$3
    shift 3
    send "$host" "$target" "proc:$name" --downtime 1ms --timeout 3s --on-timeout stop "$@"
}

# delta_count -eq|-gt N
delta_count() {
    local got
    got=$(result_field memory.delta_pages) || return
    echo "$got deltas among $(result_field memory.sent_pages) pages in $(result_field memory.rounds) rounds"
    case $1 in
        -eq) [ "$got" -eq "$2" ] ;;
        -gt) [ "$got" -gt "$2" ] ;;
    esac
}

# page_cost: octets on the wire for a page that was sent.
page_cost() {
    echo $(($(result_field wire_bytes) / $(result_field memory.sent_pages)))
}

cheaper() {
    echo "$1 octets a page with deltas, $2 without"
    [ "$1" -lt "$2" ]
}

# seen_by_the_reader DIR: the capture keeps every rule, and has as many deltas as the result says.
seen_by_the_reader() {
    "$TOP/tools/verify-stream.py" "$1" > "$WORK/reader.log" || { cat "$WORK/reader.log"; return 1; }
    grep -q "deltas $(result_field memory.delta_pages)\$" "$WORK/reader.log" || { cat "$WORK/reader.log"; return 1; }
}

test_begin zstd
must 'host a starts' host_start a
must 'host b starts' host_start b
must 'host c starts, which keeps nothing' host_start c --delta-cache 0
must 'a and b are paired' pair a b
must 'a and c are paired' pair a c
for name in whole parts plain refused; do
    must "the guest $name runs" parts_guest a "$name"
done
must 'one moves without deltas' send_rounds a b whole --compress zstd --delta-cache 0
check 'it had none' delta_count -eq 0
without=$(page_cost)
must 'one moves with them' send_rounds a b parts --compress zstd --capture "$WORK/capture"
check 'the result says moved' result_is outcome moved
check 'many pages went as deltas' delta_count -gt 1000
check 'a page took less' cheaper "$(page_cost)" "$without"
check 'the independent reader follows the deltas' seen_by_the_reader "$WORK/capture"
check 'its RAM and disk are whole' on b guest verify parts
must 'one moves without compression' send_rounds a b plain --compress none
check 'it had none' delta_count -eq 0
must 'one moves to who keeps nothing' send_rounds a c refused --compress zstd
check 'it had none' delta_count -eq 0
check 'its RAM and disk are whole' on c guest verify refused
test_end
