#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# check, list, identity and guest list say what is true, before, while and after a guest moves.
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

listed() {
    on "$1" list | grep -q -w -- "$2"
}

not_listed() {
    ! listed "$@"
}

guest_listed() {
    on "$1" guest list | grep -q -w -- "$2"
}

guest_not_listed() {
    ! guest_listed "$@"
}

same_identity() {
    [ "$(fingerprint a)" = "$(fingerprint a)" ] && [ "$(fingerprint a)" != "$(fingerprint b)" ]
}

# secrets_kept: nobody else can read the key or look into the state folder.
secrets_kept() {
    [ "$(stat -c %a "$WORK/a/state/identity.key")" = 600 ] && [ "$(stat -c %a "$WORK/a/state")" = 700 ]
}

events_are_json() {
    python3 -c 'import json, sys
for line in open(sys.argv[1]):
    json.loads(line)["event"]' "$WORK/send.log"
}

test_begin
must 'host a starts' host_start a
must 'host b starts' host_start b
check 'identities stay and differ' same_identity
check 'the key is private' secrets_kept
must 'they are paired' pair a b
must 'the guest runs' guest_busy a g
check 'guest list has it' guest_listed a g
check 'nothing moves: list says so' on a list
check 'and has no guest' not_listed a g
check 'check finds nothing against a move' on a check proc:g "$(address b)" --sr "dir:$WORK/b/sr"
check 'and has changed nothing' nothing_left b
send_start a b proc:g --downtime 1ms --timeout 1h
must 'it copies' wait_for 30 copying b
check 'the source lists it' listed a g
check 'the target lists it' listed b g
must 'it is cancelled' on a cancel g
check 'the sender ends' ends 5 "$SENDER"
check 'every event is JSON' events_are_json
must 'it moves' send a b proc:g --downtime 5s
check 'guest list has it at the target' guest_listed b g
check 'and no longer at the source' guest_not_listed a g
test_end
