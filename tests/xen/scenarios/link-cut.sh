# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The wire is cut in both phases: sender and receiver notice, and the guest runs on at the source.
# hosts: stock
# needs: xmotion

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"

link_back() {
    send_wait
    [ "$(result outcome)" = failed ] || fail "the outcome is $(result outcome)"
    link_up
}

broken_moves link_cut link_back
