# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# "xl migrate" and xmotion move a pv guest, one after the other: both totals and silences side by side.
# hosts: shadow
# needs: xmotion

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"
# shellcheck source=tests/xen/peer.sh
. "$XEN_DIR/peer.sh"
side_by_side pv
