# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# A tracker that is killed leaves nothing in the kernel, and the writer does not notice.

before=$(track-copy programs)
for disk in /dev/fast /dev/mapper/lv; do
    track-copy write -t 8000 $disk > /tmp/writer 2>&1 &
    writer=$!
    rm -f /tmp/tracker
    track-copy track -t 60000 $disk > /tmp/tracker 2>&1 &
    tracker=$!
    wait_for /tmp/tracker tracking || result fail "$disk: no tracker"
    during=$(track-copy programs)
    kill -9 $tracker
    wait $tracker
    sleep 1 # maps are freed after a grace period
    after=$(track-copy programs)
    [ "$before" = "$after" ] && [ "$before" != "$during" ]
    result_of $? "$disk: before $before, with a tracker $during, after its death $after"
    wait $writer
    result_of $? "the writer: $(cat /tmp/writer)"
done
