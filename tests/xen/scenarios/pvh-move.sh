# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A pvh guest that dirties RAM and writes to two volumes moves from a to b with its disks.
# hosts: stock
# needs: xmotion

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"
move pvh
