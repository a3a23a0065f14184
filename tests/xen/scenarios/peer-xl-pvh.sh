# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# "xl migrate" of a pvh guest from a to b, its time and the guest's silence.
# hosts: stock

# shellcheck source=tests/xen/peer.sh
. "$XEN_DIR/peer.sh"
xl_migrate pvh
