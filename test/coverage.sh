#!/bin/sh
# coverage.sh - measures which lines and branches of msc4203.h the test suites reach (a share of
# them: TEST_SHARE, default 20), over the union of the library's builds: plain C, byte by byte,
# SSE2, AVX2. Fails under 100 %. Lines that say /* unreachable: REASON */ are left out; there are
# at most ten.
set -u
MAKE=${MAKE:-make} GCC=${GCC:-gcc}
TEST_SHARE=${TEST_SHARE:-20}
export TEST_SHARE
for tool in "$GCC" gcov gcovr; do
    command -v "$tool" >/dev/null || {
        echo "coverage: $tool is missing: apt-get install gcc gcovr"
        exit 1
    }
done
root=$PWD
mkdir -p build/coverage
rm -f build/coverage/*.json
mark='.*/\* unreachable: .*'
failed=0

# run NAME CFLAGS LIBFLAGS
run() {
    dir=build/coverage/$1
    sh test/shadow.sh "$dir"
    start=$(date +%s)
    (cd "$dir" && $MAKE -s CC="$GCC" CFLAGS="-O0 --coverage $2" LIBFLAGS="$3" suites) \
        >"$dir/log" 2>&1
    status=$?
    [ $status -eq 0 ] || { failed=1; cat "$dir/log"; }
    (cd "$dir" && gcovr --root . --filter 'msc4203\.h$' --exclude-unreachable-branches \
        --exclude-lines-by-pattern "$mark" --exclude-branches-by-pattern "$mark" \
        --json "$root/build/coverage/$1.json" build) >"$dir/gcovr.log" 2>&1 || {
        failed=1
        cat "$dir/gcovr.log"
    }
    # Which functions there are depends on the build, and gcovr insists on the same in all.
    sed -i 's/"functions": *\[[^]]*\]/"functions": []/' "build/coverage/$1.json"
    said=$(grep -E '^[0-9]+ passed' "$dir/log" | tail -n 1)
    printf '%-12s %s, %d s\n' "$1" "${said:-not run}" $(($(date +%s) - start))
}

run words '' -DMSC4203_NO_SIMD
run bytes '' '-DMSC4203_NO_SIMD -DMSC4203_NO_WORDS'
run vectors '' ''
if grep -qw avx2 /proc/cpuinfo 2>/dev/null; then
    run avx2 -mavx2 ''
else
    echo 'coverage: this processor has no AVX2: left out'
fi

exceptions=$(grep -c '/\* unreachable: ' msc4203.h)
grep -n '/\* unreachable: ' msc4203.h
echo "exceptions: $exceptions (at most 10)"
[ "$exceptions" -le 10 ] || failed=1

union=
for file in build/coverage/*.json; do
    union="$union -a $file"
done
gcovr --root . $union --json build/coverage/union.json.out --print-summary \
    --fail-under-line 100 --fail-under-branch 100 || failed=1
for kind in lines branches; do
    gcovr --root . $union $([ $kind = lines ] || echo --branches) |
        awk '/^msc4203\.h/ { found = 1 }
            found { print $NF } /^---/ && found { exit }' | tr ',' '\n' | grep -E '^[0-9-]+$' |
        grep -v '^-*$' | while IFS=- read -r first last; do
            awk -v kind="$kind" -v first="$first" -v last="${last:-$first}" '
                FNR >= first && FNR <= last { printf "%s: msc4203.h:%d: %s\n", kind, FNR, $0 }' \
                msc4203.h
        done
done
if [ $failed -eq 0 ]; then echo 'coverage: 100 %'; else echo 'coverage: failed'; fi
exit $failed
