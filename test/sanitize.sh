#!/bin/sh
# sanitize.sh - runs the test suites (a share of them: TEST_SHARE, default 8) under
# AddressSanitizer and UndefinedBehaviorSanitizer, and under MemorySanitizer: plain C, byte by
# byte, and with vectors. The first report ends a test program, which then counts as failed.
# SANITIZE_BUILDS="asan-words msan-bytes": these builds alone.
set -u
MAKE=${MAKE:-make} SAN_CC=${SAN_CC:-clang}
TEST_SHARE=${TEST_SHARE:-8}
export TEST_SHARE
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=0
export UBSAN_OPTIONS=print_stacktrace=1
command -v "$SAN_CC" >/dev/null || {
    echo "sanitize: $SAN_CC is missing: apt-get install clang llvm libclang-rt-14-dev"
    exit 1
}
# Each sanitizer must be there, and must find a fault made for it.
mkdir -p build/sanitize
cat >build/sanitize/canary.c <<'C'
#include <stdlib.h>
int main(int argc, char **argv)
{
    char *block = malloc(2);
    if (argv[1][0] == 'a') /* AddressSanitizer */
        block[argc] = block[argc - 3];
    if (argv[1][0] == 'u') /* UndefinedBehaviorSanitizer */
        argc = 0x7fffffff + argc;
    if (argv[1][0] == 'm' && block[argc - 1] == 'x') /* MemorySanitizer */
        return 3;
    free(block);
    return argc == 0;
}
C
canary() { # FLAG FAULT NAME
    if ! "$SAN_CC" -g -O1 "-fsanitize=$1" -fno-sanitize-recover=all -o build/sanitize/canary \
        build/sanitize/canary.c >build/sanitize/canary.log 2>&1; then
        cat build/sanitize/canary.log
        echo "sanitize: cannot build with $1: apt-get install llvm libclang-rt-14-dev"
        exit 1
    fi
    if build/sanitize/canary "$2" >build/sanitize/canary.log 2>&1 ||
        ! grep -q "$3" build/sanitize/canary.log; then
        cat build/sanitize/canary.log
        echo "sanitize: $1 does not find the fault that was made for it"
        exit 1
    fi
}
canary address,undefined a AddressSanitizer
canary address,undefined u 'runtime error'
canary memory m MemorySanitizer
failed=0 ran=0

# run NAME CFLAGS LIBFLAGS
run() {
    case " ${SANITIZE_BUILDS:-$1} " in
    *" $1 "*) ;;
    *) echo "$1: left out, as asked" && return ;;
    esac
    dir=build/sanitize/$1
    ran=$((ran + 1))
    sh test/shadow.sh "$dir"
    start=$(date +%s)
    (cd "$dir" && $MAKE -s CC="$SAN_CC" CFLAGS="-g -O1 -fno-omit-frame-pointer $2" LIBFLAGS="$3" \
        suites) >"$dir/log" 2>&1
    status=$?
    [ $status -eq 0 ] || { failed=1; cat "$dir/log"; }
    said=$(grep -E '^[0-9]+ passed' "$dir/log" | tail -n 1)
    printf '%-24s %s, %d s\n' "$1" "${said:-not run}" $(($(date +%s) - start))
}

asan='-fsanitize=address,undefined -fno-sanitize-recover=all'
# What is defined in C and yet rarely meant: unsigned sums are left out, for hashes wrap on purpose.
asan="$asan -fsanitize=local-bounds,float-divide-by-zero,implicit-conversion"
msan='-fsanitize=memory -fsanitize-memory-track-origins -fno-sanitize-recover=all'
avx2=
if grep -qw avx2 /proc/cpuinfo 2>/dev/null; then avx2=-mavx2; fi

run asan-words "$asan" -DMSC4203_NO_SIMD
run asan-bytes "$asan" '-DMSC4203_NO_SIMD -DMSC4203_NO_WORDS'
run asan-vectors "$asan" ''
run msan-words "$msan" -DMSC4203_NO_SIMD
run msan-bytes "$msan" '-DMSC4203_NO_SIMD -DMSC4203_NO_WORDS'
run msan-vectors "$msan" ''
if [ -n "$avx2" ]; then
    run asan-avx2 "$asan $avx2" ''
    run msan-avx2 "$msan $avx2" ''
else
    echo "sanitize: this processor has no AVX2: left out"
fi
[ $ran -gt 0 ] || { echo "sanitize: no build of that name" && failed=1; }
exit $failed
