#!/bin/sh
# run.sh - what `make fuzz` runs: builds every target with clang's libFuzzer, AddressSanitizer and
# UndefinedBehaviorSanitizer, and lets each look for a fault, two at a time.
#
#   sh fuzz/run.sh [TARGET ...]     in the project's root; all targets, or those named
#
# FUZZ_SECONDS (default 60) is how long each target runs; CLANG is the compiler, and FUZZ_CFLAGS are
# more flags for it, such as -DMSC4203_NO_SIMD or -DMSC4203_NO_WORDS. Everything is under
# build/fuzz: corpus/TARGET (the seeds), grown/TARGET (what was found to lead somewhere new; the
# next run goes on from it), TARGET.log, and crashes/TARGET-* (inputs that break something). Ends
# with status 1 on a finding, and says how to repeat it.
#
# The seeds are replayed without clang, by any compiler, in a second (`make test` does):
#   cc -std=c99 -I. fuzz/driver.c fuzz/fuzz_reader.c build/msc4203.o -o build/replay_reader
#   build/replay_reader build/fuzz/corpus/fuzz_reader    prints `fuzz_reader: N passed, N failed`
set -u
seconds=${FUZZ_SECONDS:-60}
clang=${CLANG:-clang}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root" || exit 1
dir=build/fuzz

# fuzz TARGET: runs one; leaves its exit status in TARGET.status.
fuzz() {
    mkdir -p "$dir/grown/$1"
    $dir/out/"$1" -dict=fuzz/msc4203.dict -max_len=4096 -timeout=20 -rss_limit_mb=2048 \
        -max_total_time="$seconds" -print_final_stats=1 \
        -artifact_prefix="$dir/crashes/$1-" "$dir/grown/$1" "$dir/corpus/$1" \
        >"$dir/$1.log" 2>&1 </dev/null
    echo $? >"$dir/$1.status"
}

# report TARGET: what came of it.
report() {
    status=$(cat "$dir/$1.status" 2>/dev/null || echo 2)
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$dir/$1.log")
    if [ "$status" -eq 0 ] && [ "${runs:-0}" -gt 0 ]; then
        echo "$1: $runs inputs in $seconds s, no finding"
        return 0
    fi
    echo "$1: FINDING (status $status)"
    grep -E 'failed:|ERROR|runtime error|SUMMARY|Test unit written' "$dir/$1.log" | head -n 8
    file=$(sed -n 's/.*Test unit written to //p' "$dir/$1.log" | head -n 1)
    [ -z "$file" ] || echo "  repeat it: $dir/out/$1 $file"
    return 1
}

if [ "${1:-}" = --one ]; then
    fuzz "$2"
    exit 0
fi
need() {
    echo "fuzz: $1 is missing. On Debian: apt-get install $2" >&2
    exit 1
}
command -v "$clang" >/dev/null || need "$clang" clang
command -v zip >/dev/null || need zip zip
mkdir -p $dir/crashes
printf '#include <stddef.h>\nint LLVMFuzzerTestOneInput(const unsigned char *d, size_t n);\n%s\n' \
    'int LLVMFuzzerTestOneInput(const unsigned char *d, size_t n) { return d && n ? 0 : 0; }' \
    >$dir/probe.c
"$clang" -fsanitize=fuzzer,address,undefined $dir/probe.c -o $dir/probe 2>$dir/probe.log ||
    need "libFuzzer, or a sanitizer's runtime ($(head -n 1 $dir/probe.log))" libclang-rt-14-dev

flags="-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined,fuzzer-no-link"
flags="$flags -fno-sanitize-recover=all ${FUZZ_CFLAGS:-}"
CC=$clang CFLAGS=$flags CXX='' CXXFLAGS='' LIB_FUZZING_ENGINE=-fsanitize=fuzzer \
    OUT=$dir/out WORK=$dir/work SRC='' sh fuzz/build.sh || exit 1
rm -rf $dir/corpus
mkdir -p $dir/corpus
cp -R $dir/work/corpus/. $dir/corpus

[ $# -gt 0 ] || set -- fuzz_reader fuzz_roundtrip fuzz_json fuzz_log_ops fuzz_log_open \
    fuzz_receiver fuzz_http fuzz_delivery
for target in "$@"; do
    [ -f "fuzz/$target.c" ] || {
        echo "fuzz: there is no target $target" >&2
        exit 2
    }
    rm -f "$dir/$target.status"
done
printf '%s\n' "$@" | xargs -n 1 -P 2 sh fuzz/run.sh --one
failed=0
for target in "$@"; do
    report "$target" || failed=1
done
exit $failed
