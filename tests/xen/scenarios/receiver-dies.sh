# shellcheck shell=bash disable=SC2016
# SPDX-License-Identifier: LGPL-2.1-or-later
# The receiver is killed in both phases: the guest runs on at the source, and the receiver cleans up when it is back.
# hosts: stock
# needs: xmotion

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"

kill_receiver() {
    on b 'kill -9 $(cat /run/recv.job)'
}

receiver_back() {
    send_wait
    [ "$(result outcome)" = failed ] || fail "the outcome is $(result outcome)"
    receiver_start
}

broken_moves kill_receiver receiver_back
