#!/bin/sh
# test/mcu/run.sh - `make test-mcu`: the library on an emulated Cortex-M3, without an operating
# system.
#
#   stream         reads a transaction of over 1 MB in chunks of 256 bytes, in 4 KiB of RAM
#   small_json, small_reader, small_hostile, small_log
#                  the test suites as far as they fit into 64 KiB of RAM, on a board that has no
#                  more
#   flash          example/flash.c: log, sender and reader in 64 KiB of RAM, on a flash chip in
#                  another memory, through 300 resets
#   the rest       the test suites unchanged, on a board with more RAM: for their data, not for the
#                  library's
#
# TEST_SHARE (5000) makes the suites shorter, as everywhere.
set -eu
cd "$(dirname "$0")/../.."
OUT=${B:-build}/mcu HERE=test/mcu TEST_SHARE=${TEST_SHARE:-5000}
# The first starts programs, the second makes bodies of tens of MB; `file` and `appservice` need
# POSIX.
LEFT_OUT="tool hostile file sim appservice"
mkdir -p "$OUT"

missing=
command -v arm-none-eabi-gcc >/dev/null || missing=" gcc-arm-none-eabi libnewlib-arm-none-eabi"
command -v qemu-system-arm >/dev/null || missing="$missing qemu-system-arm"
if [ -z "$missing" ] && ! echo '#include <stdio.h>' | arm-none-eabi-gcc -E - >/dev/null 2>&1; then
    missing=" libnewlib-arm-none-eabi"
fi
if [ -n "$missing" ]; then
    echo "test-mcu: cannot run without these packages: apt-get install$missing" >&2
    exit 1
fi

# What the linker has to know of the boards: memory, and how much of it is for the stack.
board() { # FLASH RAM RAM_AT STACK
    printf ' -Wl,--defsym=MCU_%s' "FLASH=$1" "RAM=$2" "RAM_AT=$3" "STACK=$4"
}
TINY="--specs=nano.specs $(board 32K 4K 0x20000000 1K)"
SMALL="--specs=nano.specs --specs=rdimon.specs $(board 256K 64K 0x20000000 4K)"
RESETS="--specs=nano.specs --specs=rdimon.specs $(board 256K 64K 0x20000000 4K)
    -Wl,--defsym=mcu_outside=0x21000000 -Wl,--defsym=mcu_stack_most=0x21800000"
LARGE="--specs=rdimon.specs $(board 4M 16M 0x21000000 256K)"

passed=0 failed=0
# Builds a program and runs it: NAME BOARD MEMORY FLAGS AND FILES...
run() {
    name=$1 board=$2 memory=$3
    shift 3
    if ! arm-none-eabi-gcc -mcpu=cortex-m3 -mthumb -std=c99 -ffunction-sections -fdata-sections \
        -Wall -Wextra -Werror -DMSC4203_NO_FILE -I. -Itest -o "$OUT/$name.elf" \
        "$@" $HERE/start.c msc4203.c -nostartfiles -T $HERE/mcu.ld -Wl,--gc-sections $memory; then
        echo "$name: does not build, or does not fit"
        failed=$((failed + 1))
        return
    fi
    status=0
    timeout 300 qemu-system-arm -M "$board" -nographic -monitor none -serial none \
        -semihosting-config "enable=on,target=native,arg=$name,arg=TEST_SHARE=$TEST_SHARE" \
        -kernel "$OUT/$name.elf" </dev/null >"$OUT/$name.log" 2>&1 || status=$?
    grep -v '^Timer with period zero' "$OUT/$name.log" || :
    # "NAME: N passed, N failed" is the last line of each.
    counts=$(sed -n 's/^[a-z0-9_]*: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' \
        "$OUT/$name.log" | tail -n 1)
    good=${counts% *} bad=${counts#* }
    if [ -z "$counts" ] || [ "$counts" = "0 0" ] || { [ $status != 0 ] && [ "$bad" = 0 ]; }; then
        echo "$name: ended with status $status"
        good=0 bad=1
    fi
    passed=$((passed + good)) failed=$((failed + bad))
}

run stream lm3s6965evb "$TINY" -Os $HERE/stream.c
for name in small_json small_reader small_hostile small_log; do
    run $name lm3s6965evb "$SMALL" -Os $HERE/$name.c $HERE/suite.c
done
run flash mps2-an385 "$RESETS" -Os $HERE/flash.c $HERE/suite.c
for file in test/test_*.c; do
    name=$(basename "$file" .c)
    case " $LEFT_OUT " in
    *" ${name#test_} "*) echo "$name: left out" ;;
    *) run "$name" mps2-an385 "$LARGE" -O2 "$file" $HERE/suite.c ;;
    esac
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
