# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# The same copy must fail where marks are set when a write begins: a test that cannot fail proves nothing.

for disk in /dev/slow /dev/mapper/slow-lv; do
    export XMOTION_TEST_TRACKER=submission
    expect_text 1 ' [1-9][0-9]* differ' "marked too early, $disk" track-copy copy -t 2500 $disk
done
