# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# "xl migrate" of a pv guest from a to b, its time and the guest's silence.
# hosts: shadow

# shellcheck source=tests/xen/peer.sh
. "$XEN_DIR/peer.sh"
xl_migrate pv
