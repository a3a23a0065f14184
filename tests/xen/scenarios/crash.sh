# shellcheck shell=bash disable=SC2016,SC2034
# SPDX-License-Identifier: LGPL-2.1-or-later
# The short form of crash-kill and crash-power: every state of a move, every kind of death, either end, not each with each.
# hosts: stock
# needs: faults

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"
# shellcheck source=tests/xen/crash.sh
. "$XEN_DIR/crash.sh"

crash_begin
cell source.memory     kill_receiver_all source kept
cell source.suspended  kill_sender_all   source kept
cell source.commit     kill_receiver     source kept
cell target.go-noted   kill_receiver_all source kept
cell source.go         kill_sender       target kept
cell source.disks      cut_target        source kept
cell source.ready      cut_source        source new
cell source.go         cut_source        target kept
cell source.go         cut_target        target new
used_disk_is_refused
crash_end
