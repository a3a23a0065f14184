# shellcheck shell=bash disable=SC2016
# SPDX-License-Identifier: LGPL-2.1-or-later
# The receiver is killed in both phases of a move: the guest runs on, and the move goes on with the receiver that is started next.
# hosts: stock
# needs: xmotion

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"

kill_receiver() {
    on b 'kill -9 $(cat /run/recv.job)'
}

broken_move kill_receiver receiver_start
