#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Who may include whom (docs/design.md), checked by reading #include lines; and the SPDX line and the size of every
# source file. First a made-up tree that breaks every rule is checked, to see that the rules can fail.
#
#   tests/include-rules.sh [DIR]      DIR: the tree, default this one
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
MAX_LINES=600

# Which rooms each room may include: itself and what is below.
declare -A MAY=(
    [base]='base'
    [transport]='transport base'
    [hv]='hv base'
    [mirror]='mirror transport hv base'
    [memsync]='memsync transport hv base'
    [session]='session mirror memsync transport hv base'
    [cli]='cli session mirror memsync transport hv base'
)

# Foreign headers, and the files (of src/) behind which each stays: "HEADER-REGEX FILE-REGEX".
BEHIND=(
    '(lib)?ev(\+\+)?\.h session/loop\.c'
    'openssl/.* transport/(conn-tls|identity|trust)[a-z-]*\.[ch]'
    '(zstd|zdict)[a-z_]*\.h transport/compress-zstd\.c'
    '(libxl[a-z_]*|xenctrl|xenguest|xenstore|xentoollog|xen/.*|xentool[a-z]*|xenevtchn|xengnttab|xencall)(\.h)? hv/xen/.*'
    '(bpf/.*|linux/(bpf|btf)|vmlinux|.*\.skel)(\.h)? mirror/bpf/.*'
    'libnbd\.h (mirror/(blockdev|tracker)-nbd\.c|hv/proc-guest-disk\.c)'
    'xxh(ash|_x86dispatch)\.h (base/checksum|mirror/chain)\.c'
    'seccomp\.h cli/confine\.c'
    'libaio\.h mirror/direct-io\.c'
    'nbdkit-(plugin|filter)\.h mirror/nbdkit-plugin\.c'
)

# source_files TREE: the project's own sources, relative to it.
source_files() {
    (cd "$1" && find src tests tools scripts .ci -type f \( -name '*.[ch]' -o -name '*.sh' -o -name '*.py' \
        -o -name 'meson.build' -o -path 'scripts/*' -o -path '.ci/*' \) \
        ! -path '*/corpus/*' ! -path '*/__pycache__/*' 2> /dev/null | sort) || true
}

# includes FILE: the files it includes, one a line: "line number:name".
includes() {
    sed -n -E 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"]([^>"]+)[>"].*/\1/; t ok; b; :ok; =; p' "$1" |
        paste -d: - -
}

check_rooms() { # TREE FILE
    local room line name other
    room=${2#src/} && room=${room%%/*}
    [ -n "${MAY[$room]:-}" ] || { echo "$2: no room is called $room"; return; }
    while IFS=: read -r line name; do
        other=${name%%/*}
        if [ -n "${MAY[$other]:-}" ] && [ "$other" != "$name" ] && [[ " ${MAY[$room]} " != *" $other "* ]]; then
            echo "$2:$line: $room includes $name: it may include only: ${MAY[$room]}"
        fi
        [[ $name != ../* ]] || echo "$2:$line: includes $name: name it from src/"
    done < <(includes "$1/$2")
}

check_foreign() { # TREE FILE
    local rule line name
    while IFS=: read -r line name; do
        for rule in "${BEHIND[@]}"; do
            if [[ $name =~ ^${rule% *}$ ]] && ! [[ ${2#src/} =~ ^${rule##* }$ ]]; then
                echo "$2:$line: includes $name, which stays behind ${rule##* }"
            fi
        done
    done < <(includes "$1/$2")
}

check_form() { # TREE FILE
    local lines
    head -n 2 "$1/$2" | grep -q 'SPDX-License-Identifier: LGPL-2.1-or-later\|SPDX-License-Identifier: GPL-2.0' ||
        echo "$2:1: no SPDX line"
    lines=$(wc -l < "$1/$2")
    [ "$lines" -le "$MAX_LINES" ] || echo "$2: $lines lines, at most $MAX_LINES"
}

# check_tree TREE: prints every violation; COUNT is the number of files that were read.
check_tree() {
    local file rule
    COUNT=0
    while read -r file; do
        COUNT=$((COUNT + 1))
        check_form "$1" "$file"
        case $file in
            src/*/*.[ch])
                check_rooms "$1" "$file"
                check_foreign "$1" "$file"
                ;;
        esac
    done < <(source_files "$1")
}

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

# bad FILE PART CONTENT...: a tree of this one file must be refused with a message that has PART.
bad() {
    local tree=$made/$((++made_count)) file=$1 part=$2
    shift 2
    mkdir -p "$tree/$(dirname "$file")"
    printf '%s\n' "$@" > "$tree/$file"
    if ! check_tree "$tree" | grep -q -F -- "$part"; then
        echo "not refused: $file with $*"
        self_failed=$((self_failed + 1))
    fi
}

spdx='/* SPDX-License-Identifier: LGPL-2.1-or-later */'
made_count=0 self_failed=0
bad src/mirror/a.c 'mirror includes memsync/b.h' "$spdx" '#include "memsync/b.h"'
bad src/memsync/a.c 'memsync includes mirror/b.h' "$spdx" '# include "mirror/b.h"'
bad src/base/a.h 'base includes transport/conn.h' "$spdx" '#include "transport/conn.h"'
bad src/transport/a.c 'transport includes hv/hv.h' "$spdx" '#include "hv/hv.h"'
bad src/hv/a.c 'hv includes session/loop.h' "$spdx" '#include "session/loop.h"'
bad src/session/a.c 'session includes cli/options.h' "$spdx" '#include "cli/options.h"'
bad src/mirror/a.c 'name it from src/' "$spdx" '#include "../transport/conn.h"'
bad src/attic/a.c 'no room is called attic' "$spdx"
bad src/cli/a.c 'includes ev.h' "$spdx" '#include <ev.h>'
bad src/session/source.c 'includes ev.h' "$spdx" '#include <ev.h>'
bad src/transport/wire.c 'includes openssl/ssl.h' "$spdx" '#include <openssl/ssl.h>'
bad src/memsync/a.c 'includes zstd.h' "$spdx" '#include <zstd.h>'
bad src/hv/hv-xen.c 'includes libxl.h' "$spdx" '#include <libxl.h>'
bad src/hv/hv-xen.c 'includes xen/xen.h' "$spdx" '#include <xen/xen.h>'
bad src/mirror/tracker.c 'includes bpf/libbpf.h' "$spdx" '#include <bpf/libbpf.h>'
bad src/hv/hv-proc.c 'includes libnbd.h' "$spdx" '#include <libnbd.h>'
bad src/mirror/tracker-nbd.c 'includes nbdkit-plugin.h' "$spdx" '#include <nbdkit-plugin.h>'
bad src/mirror/blockdev-file.c 'includes libaio.h' "$spdx" '#include <libaio.h>'
bad src/cli/cmd-recv.c 'includes seccomp.h' "$spdx" '#include <seccomp.h>'
bad src/base/a.c 'no SPDX line' 'int a;'
bad tests/a.sh 'no SPDX line' '#!/bin/sh'
mapfile -t many < <(yes 'int a;' | head -n $MAX_LINES)
bad src/base/a.c '601 lines' "$spdx" "${many[@]}"

check_tree "${1:-$top}" > "$made/found"
cat "$made/found"
violations=$(wc -l < "$made/found")
echo "include-rules: $COUNT files, $made_count made-up trees"
echo "$((COUNT + made_count - violations - self_failed)) passed, $((violations + self_failed)) failed, 0 skipped"
[ "$((violations + self_failed))" = 0 ]
