# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Sender or receiver is killed in every state of a move, with its agents or without; there is one guest then, which never stopped.
# hosts: stock
# needs: faults

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"
# shellcheck source=tests/xen/crash.sh
. "$XEN_DIR/crash.sh"

crash_begin
cell source.disks      kill_sender       source kept
cell source.memory     kill_sender_all   source kept
cell source.suspended  kill_sender       source kept
cell source.suspended  kill_sender_all   source kept
cell source.ready      kill_sender_all   source kept
cell source.commit     kill_sender_all   source kept
cell source.go         kill_sender       target kept
cell source.disks      kill_receiver     source kept
cell source.memory     kill_receiver_all source kept
cell source.suspended  kill_receiver     source kept
cell source.ready      kill_receiver_all source kept
cell source.commit     kill_receiver     source kept
cell target.go-noted   kill_receiver_all source kept
cell source.go         kill_receiver_all target kept
crash_end
