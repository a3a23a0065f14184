# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The wire is cut in both phases of a move: both ends notice, the guest runs on, and the move goes on when the wire is back.
# hosts: stock
# needs: xmotion

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"
broken_move link_cut link_up
