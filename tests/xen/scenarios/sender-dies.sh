# shellcheck shell=bash disable=SC2016
# SPDX-License-Identifier: LGPL-2.1-or-later
# The sender is killed while it copies disks, then while it copies memory: the guest runs on at the source.
# hosts: stock
# needs: xmotion

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"

kill_sender() {
    on a 'kill -9 $(cat /run/send.job)'
}

broken_moves kill_sender true
