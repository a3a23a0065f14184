# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A pvh guest that dirties RAM and writes to two volumes moves from a to b with its disks; an independent reader takes what went
# over the wire.
# hosts: stock
# needs: xmotion

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"
# shellcheck disable=SC2034 # for send_start
LAB_SEND_OPTIONS='--timeout 3m --on-timeout stop --no-brake --capture /run/capture'
move pvh
capture_accepted
