# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The power of either host is cut in every state of a move; after its return there is one guest, whole.
# hosts: stock
# needs: faults

# shellcheck source=tests/xen/xmotion.sh
. "$XEN_DIR/xmotion.sh"
# shellcheck source=tests/xen/crash.sh
. "$XEN_DIR/crash.sh"

crash_begin
cell source.disks      cut_target source kept
cell source.memory     cut_target source kept
cell source.suspended  cut_target source kept
cell source.ready      cut_target source kept
cell source.commit     cut_target source kept
cell source.disks      cut_source source new
cell source.memory     cut_source source new
cell source.suspended  cut_source source new
cell source.ready      cut_source source new
cell source.commit     cut_source source new
cell source.go         cut_source target kept
cell source.go         cut_target target new
cell target.go-noted   cut_target target new
crash_end
