#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A disk alone, served by nbdkit with our plugin, is moved while fio writes to it. --stop-command ends the writers,
# --go-command runs after; the copy equals the disk.
set -u
# shellcheck source=../functions.sh disable=SC1091
. "$(dirname "$0")/../functions.sh"

PLUGIN=$(find "${XMOTION_PLUGIN_DIR:-$XMOTION_ROOT}" -name nbdkit-xmotion-plugin.so -print -quit 2> /dev/null)

serve() {
    XMOTION_RUN_DIR="$WORK/a/run" nbdkit -f -U "$WORK/disk.sock" "$PLUGIN" "file=$WORK/disk.img" \
        > "$WORK/nbdkit.log" 2>&1 < /dev/null &
    wait_for 10 test -S "$WORK/disk.sock"
}

# write_load: random writes until stopped; FIO is their process.
write_load() {
    XMOTION_RUN_DIR="$WORK/a/run" fio --name=load --ioengine=nbd --uri="$URI" --rw=randwrite --bsrange=4k-256k \
        --iodepth=8 --size=256M --time_based --runtime=600 --rate=20m --randrepeat=0 --group_reporting \
        > "$WORK/fio.log" 2>&1 < /dev/null &
    FIO=$!
    echo "$FIO" > "$WORK/fio.pid"
    sleep 2
    ! gone "$FIO"
}

same() {
    local copy
    copy=$(find "$WORK/b/sr" -type f)
    cmp "$WORK/disk.img" "$copy"
}

# commands_ran_in_order: stop while the disk was still ours, go afterwards.
commands_ran_in_order() {
    [ "$(paste -s -d ' ' "$WORK/commands")" = 'stop go' ]
}

test_begin nbdkit fio nbdcopy
[ -n "$PLUGIN" ] || skip 'the nbdkit plugin was not built'
fio --enghelp 2> /dev/null | grep -q -w nbd || skip 'this fio has no nbd engine'
URI="nbd+unix:///?socket=$WORK/disk.sock"
cat > "$WORK/stop" <<STOP
#!/bin/sh
kill \$(cat '$WORK/fio.pid') || exit 1
while kill -0 \$(cat '$WORK/fio.pid') 2> /dev/null && ! grep -q '^State:.*Z' /proc/\$(cat '$WORK/fio.pid')/status; do sleep 0.02; done
echo stop >> '$WORK/commands'
STOP
printf '#!/bin/sh\necho go >> "%s"\n' "$WORK/commands" > "$WORK/go"
chmod +x "$WORK/stop" "$WORK/go"

must 'host a starts' host_start a
must 'host b starts' host_start b
must 'they are paired' pair a b
head -c 64M /dev/urandom > "$WORK/disk.img"
truncate -s 256M "$WORK/disk.img"
must 'nbdkit serves the disk' serve
must 'fio writes to it' write_load
must 'it moves' send a b "disk:$URI" --stop-command "$WORK/stop" --go-command "$WORK/go" --capture "$WORK/capture"
check 'the result says moved' result_is outcome moved
check 'the disk is verified' result_is disks.0.verified true
check 'its size is exact' result_is disks.0.size $((256 << 20))
check 'both commands ran, in order' commands_ran_in_order
check 'the copy equals the disk' same
check 'the independent reader accepts the capture' "$TOP/tools/verify-stream.py" "$WORK/capture"

printf '#!/bin/sh\nexit 3\n' > "$WORK/stop"
rm -f "$WORK"/b/sr/*
fails() {
    ! send a b "disk:$URI" --stop-command "$WORK/stop" --go-command "$WORK/go"
}
check 'a stop command that fails ends the move' fails
check 'and leaves nothing' wait_for 10 nothing_left b
test_end
