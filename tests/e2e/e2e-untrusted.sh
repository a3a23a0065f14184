#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Peers that do not know each other: one sentence, a non-zero exit code, nothing moved, nothing left.
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

# refused WORD: the move is refused with one sentence that has WORD, and changes nothing.
refused() {
    local code=0
    send a b proc:g || code=$?
    [ "$code" = 1 ] || [ "$code" = 2 ] || [ "$code" = 3 ] || { echo "exit code $code"; return 1; }
    one_sentence "$WORK/send.log.err" || return
    grep -q -i -- "$1" "$WORK/send.log.err" || { echo "no word of '$1' in: $(cat "$WORK/send.log.err")"; return 1; }
    nothing_left b && guest_runs a g
}

trust_refused() {
    ! on a trust "$@" 2> "$WORK/trust.err" && one_sentence "$WORK/trust.err"
}

# new_identity: host b comes back with another key, on the same port.
new_identity() {
    kill "${RECEIVER[b]}"
    wait "${RECEIVER[b]}"
    rm -f "$WORK/b/state/identity.key" "$WORK/b/state/identity.crt"
    receiver_start b
}

wrong_fingerprint=SHA256:$(printf '0%.0s' {1..64})

test_begin
must 'host a starts' host_start a
must 'host b starts' host_start b
must 'the guest runs' guest_small a g
check 'a receiver that is not trusted' refused trust
check 'a fingerprint that differs is not stored' trust_refused "$(address b)" --fingerprint "$wrong_fingerprint"
check 'it is still not trusted' refused trust
must 'it is trusted now' on a trust "$(address b)" --fingerprint "$(fingerprint b)"
check 'a sender that is not authorized' refused authorize
must 'it is authorized now' on b authorize "$(fingerprint a)" --comment 'host a'
must 'the receiver comes back with another certificate' new_identity
check 'a certificate that has changed' refused certificate
check 'trust does not replace by itself' trust_refused "$(address b)"
must 'trust --replace does' on a trust "$(address b)" --fingerprint "$(fingerprint b)" --replace
check 'now it moves' send a b proc:g
check 'the guest is whole' on b guest verify g
test_end
