#!/bin/sh
# test/bench/size.sh - `make size`: what reading, writing and the log take, at -Os: code, read-only
# data, writable data, and the deepest chain of calls. Writes build/bench/size.md.
#
# The library is linked for each layer with nothing but the functions of that layer as roots and
# --gc-sections: so what counts is what a program that uses them gets, the compiler's helpers
# (libgcc) included, mem* not. "Writing too" is what writing adds to a program that reads. The stack
# is the compiler's own account (-fcallgraph-info) of the deepest chain from any of the layer's
# functions, without what mem* take.
#
# The log is a layer of its own: it needs neither reading nor writing. The functions that a queue
# points to count too, in size and stack; a call through a pointer is allowed to its storage alone,
# and to what msc4203_log_scan() is given. What these take of the stack is the caller's affair.
#
# Fails when a Cortex-M0+ needs more than the figures below, when a function needs more than
# FRAME_MAX bytes of stack on any of the machines, when there is writable data, or when anything but
# mem* and the compiler's tables for `switch` has to be linked (so there is no division and no
# floating point, for which a Cortex-M0+ would need functions). The figures are what has been
# reached, and the aims what is still wanted, constants included.
set -eu
cd "$(dirname "$0")/../.."
OUT=${B:-build}/bench/size
READING_MAX=5030 WRITING_MAX=2200 STACK_MAX=256
READING_AIM=4608 WRITING_AIM=2048
ALL_MAX=40600 LOG_MAX=24350 LOG_STACK_MAX=1200 LOG_STATE_MAX=448 FRAME_MAX=256
ALL_AIM=25600 LOG_AIM=9216
mkdir -p "$OUT/bare"

missing=
need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null || missing="$missing $2"
}
need gcc gcc
need arm-none-eabi-gcc "gcc-arm-none-eabi libnewlib-arm-none-eabi"
need riscv64-unknown-elf-gcc gcc-riscv64-unknown-elf
if [ -n "$missing" ]; then
    echo "size: cannot run without these packages: apt-get install$missing" >&2
    exit 1
fi

# The two headers that a RISC-V compiler without a libc lacks.
echo '#include <stdint-gcc.h>' >"$OUT/bare/stdint.h"
cat >"$OUT/bare/string.h" <<END
#include <stddef.h>
void *memcpy(void *, const void *, size_t);
void *memmove(void *, const void *, size_t);
void *memset(void *, int, size_t);
int memcmp(const void *, const void *, size_t);
END

READ="reader_init reader_preset reader_feed reader_next reader_offset item_error"
COUNTS="algorithms_init algorithms_next"
WRITE="writer_begin writer_reserve writer_item writer_end writer_needed writer_clear"
TEXTS="result_text result_errcode result_status"
LOG="log_open log_format log_inspect log_memory log_queue log_quotas log_key log_close
    log_usage_get"
DELIVERY="sender_init sender_poll sender_read sender_result sender_wake sender_skip
    sender_status_get receiver_init receiver_request receiver_feed receiver_next receiver_reject
    sync_begin sync_next sync_unread sync_token change_device change_channel expire digest_init
    digest_add digest_end route"
# What msc4203_log_queue() puts into a queue.
QUEUE=$(sed -n 's/^    queue->[a-z]* = \(log_[a-z_]*\);$/msc4203.c:\1/p' msc4203.h)
[ "$(echo "$QUEUE" | wc -l)" -eq 17 ] || {
    echo "size: what are the 17 functions of a queue?" >&2
    exit 1
}

# Links the library with only these functions. Sets text, rodata, data; links $OUT/linked.
link() {
    roots=
    for function in "$@"; do
        roots="$roots -Wl,-u,msc4203_$function"
    done
    $gcc -nostdlib -nostartfiles -static -Wl,--gc-sections -Wl,--build-id=none \
        -Wl,--unresolved-symbols=ignore-all -Wl,-e,msc4203_$1 $roots "$OUT/msc4203.o" -lgcc \
        -o "$OUT/linked" 2>"$OUT/link.log" || {
        cat "$OUT/link.log" >&2
        exit 1
    }
    # .data.rel.ro is written by the loader alone, but takes memory all the same.
    eval "$(${prefix}size -A "$OUT/linked" | awk '
        /^\.text/ { t += $2 } /^\.(s?rodata|srodata)/ { r += $2 }
        /^\.(s?data|s?bss|got|tdata|tbss)/ { d += $2 }
        END { printf "text=%d rodata=%d data=%d\n", t, r, d }')"
}

# The deepest chain from any of these functions, of the API or FILE:NAME; and who is on it.
chain() {
    awk -v roots="$(printf '%s\n' "$@" | sed '/:/!s/^/msc4203_/' | tr '\n' ' ')" '
        /^node:/ {
            split($0, quoted, "\"")
            title = quoted[2]
            bytes[title] = 0
            if (match(quoted[4], /[0-9]+ bytes \([a-z,]*\)/)) {
                words = substr(quoted[4], RSTART, RLENGTH)
                bytes[title] = words + 0
                if (words !~ /\(static\)|bounded/)
                    bad = bad " " title " has no fixed frame;"
            }
        }
        /^edge:/ {
            split($0, quoted, "\"")
            calls[quoted[2]] = calls[quoted[2]] "\n" quoted[4]
            if (quoted[4] == "__indirect_call")
                points[quoted[2]] = 1
        }
        function deepest(f,    list, n, i, d, most, next_one) {
            if (f in depth)
                return depth[f]
            if (f in open) {
                bad = bad " " f " is recursive;"
                return 0
            }
            open[f] = 1
            if (!(f in bytes))
                bad = bad " " f " is not known;"
            if ((f in points) && f !~ /:log_[a-z_]*(\.[a-z0-9.]*)?$|^msc4203_(log_[a-z]*|route)$/)
                bad = bad " " f " calls through a pointer;"
            n = split(calls[f], list, "\n")
            for (i = 2; i <= n; i++) {
                d = deepest(list[i])
                if (d > most || next_one == "") {
                    most = d
                    next_one = list[i]
                }
            }
            delete open[f]
            way[f] = next_one
            return depth[f] = bytes[f] + most
        }
        END {
            n = split(roots, root, " ")
            for (i = 1; i <= n; i++) {
                d = deepest(root[i])
                if (d > most) {
                    most = d
                    from = root[i]
                }
            }
            for (; from != ""; from = way[from]) {
                name = from
                sub(/.*:/, "", name)
                path = path " " name " " bytes[from]
            }
            print most + 0
            print path
            print bad
        }' "$OUT/msc4203.ci" >"$OUT/chain"
    stack=$(sed -n 1p "$OUT/chain") path=$(sed -n 2p "$OUT/chain") bad=$(sed -n 3p "$OUT/chain")
    [ -z "$bad" ] || fail "$name:$bad"
}

passed=0 failed=0
fail() {
    echo "size: $*" >&2
    failed=$((failed + 1))
}
at_most() { # WHAT BYTES MOST
    if [ "$2" -le "$3" ]; then
        passed=$((passed + 1))
    else
        fail "$1: $2 bytes, at most $3"
    fi
}
row() { # WHAT
    echo "| $name | $1 | $((text + rodata)) | $text | $rodata | $data | $stack |" >>"$OUT/size.md"
}

# Looks at the frame of each function, those that are not used included.
frames() {
    awk -F '\t' '{ sub(/.*:/, "", $1); print $2, $1 }' "$OUT/msc4203.su" | sort -rn >"$OUT/frames"
    read -r most deepest <"$OUT/frames"
    echo "  $name: the largest frame has $most bytes: $deepest"
    at_most "$name: stack of $deepest" "$most" $FRAME_MAX
}

measure() { # NAME COMPILER...
    name=$1
    shift
    gcc=$*
    prefix=${1%gcc}
    $gcc -std=c99 -Os -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables \
        -fstack-usage -fcallgraph-info=su -DMSC4203_NO_FILE -I. -c msc4203.c -o "$OUT/msc4203.o"
    frames
    link $COUNTS && chain $COUNTS
    counts_text=$text counts_rodata=$rodata
    link $TEXTS && chain $TEXTS && row "result texts alone"
    link $WRITE && chain $WRITE && row "writing alone"
    writing_stack=$stack
    echo "  $name, writing:$path"
    link $READ $COUNTS && chain $READ $COUNTS && row "reading, and going through key counts"
    link $READ && chain $READ && row "**reading**"
    echo "  $name, reading:$path"
    read_text=$text read_rodata=$rodata reading_stack=$stack
    both_data=$data
    link $READ $WRITE
    ${prefix}nm -S --size-sort -t d "$OUT/linked" |
        awk -v name="$name" '{ print name ": " $2 + 0, $4 }' >>"$OUT/functions"
    text=$((text - read_text)) rodata=$((rodata - read_rodata)) stack=$writing_stack
    row "**writing too**"
    writing=$((text + rodata))
    both_data=$((both_data + data))
    # shellcheck disable=SC2086
    link $LOG && chain $LOG $QUEUE && row "**the log**"
    echo "  $name, the log:$path"
    log_text=$text log_rodata=$rodata log_stack=$stack
    both_data=$((both_data + data))
    ${prefix}nm -S --size-sort -t d "$OUT/linked" |
        awk -v name="$name, the log" '{ print name ": " $2 + 0, $4 }' >>"$OUT/functions"
    link log_scan && chain log_scan && row "the log, reading through it alone"
    both_data=$((both_data + data))
    # Its chains lead through a queue's pointers, and so have no end here.
    # shellcheck disable=SC2086
    link $DELIVERY
    stack=
    row "**delivery**, with what it reads and writes"
    # shellcheck disable=SC2086
    link $READ $COUNTS $WRITE $TEXTS result_body $LOG log_scan $DELIVERY
    row "**all of it**"
    all=$((text + rodata))
    both_data=$((both_data + data))
    printf '#include "msc4203.h"\nchar log_state[sizeof(msc4203_log)];\n' >"$OUT/state.c"
    $gcc -std=c99 -I. -c "$OUT/state.c" -o "$OUT/state.o"
    log_state=$(${prefix}nm -S -t d "$OUT/state.o" | awk '$NF == "log_state" { print $2 + 0 }')
    echo "  $name: struct msc4203_log has $log_state bytes"
    at_most "$name: struct msc4203_log" "$log_state" $LOG_STATE_MAX
    at_most "$name: writable data" "$both_data" 0
    needs=$(${prefix}nm -u "$OUT/msc4203.o" | awk '{ print $NF }' |
        grep -v -E '^mem(cpy|cmp|move|set)$|^__gnu_thumb1_case_' | tr '\n' ' ' || :)
    if [ -n "$needs" ]; then
        fail "$name: needs more than mem*: $needs"
    else
        passed=$((passed + 1))
    fi
}

{
    echo "| machine | layer | bytes | code | constants | writable | stack |"
    echo "|---|---|--:|--:|--:|--:|--:|"
} >"$OUT/size.md"
: >"$OUT/functions"
echo "deepest chains of calls, with the bytes of each frame:"
measure "Cortex-M0+" arm-none-eabi-gcc -mcpu=cortex-m0plus -mthumb
echo "  Cortex-M0+: reading $((read_text + read_rodata)) bytes (aim: $READING_AIM)," \
    "of which $read_text are code; writing too $writing (aim: $WRITING_AIM)"
at_most "Cortex-M0+: reading" $((read_text + read_rodata)) $READING_MAX
at_most "Cortex-M0+: writing too" $writing $WRITING_MAX
at_most "Cortex-M0+: stack of reading" "$reading_stack" $STACK_MAX
at_most "Cortex-M0+: stack of writing" "$writing_stack" $STACK_MAX
echo "  Cortex-M0+: the log $((log_text + log_rodata)) bytes (aim: $LOG_AIM), of which $log_text" \
    "are code"
at_most "Cortex-M0+: the log" $((log_text + log_rodata)) $LOG_MAX
at_most "Cortex-M0+: stack of the log" "$log_stack" $LOG_STACK_MAX
echo "  Cortex-M0+: all of it $all bytes (aim: $ALL_AIM)"
at_most "Cortex-M0+: all of it" "$all" $ALL_MAX
measure "Cortex-M4" arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb
measure "RISC-V, rv32imac" riscv64-unknown-elf-gcc -march=rv32imac -mabi=ilp32 \
    -msmall-data-limit=0 -isystem "$OUT/bare"
[ "$(gcc -dumpmachine | cut -d- -f1)" != x86_64 ] || measure "x86-64" gcc -fno-pie -no-pie
echo
cat "$OUT/size.md"
echo
cp "$OUT/size.md" "$OUT/../size.md"
echo "The size of each function: $OUT/functions. For the README:"
echo "  cp $OUT/../size.md test/bench/results/"
echo "size: $passed passed, $failed failed"
[ $failed = 0 ]
