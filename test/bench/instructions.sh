#!/bin/sh
# test/bench/instructions.sh - counts the instructions that reading takes for each byte of a body,
# with callgrind: plain C, -O2. The count does not depend on what else the machine does, so it is a
# check: it fails when reading takes over 5 % more than the figures below say; and when a byte of a
# large body costs over 5 % more than one of a body of 64 KiB, in one piece or in chunks. And to
# refuse a wrong token must take as many instructions as to refuse any other of its length.
#
# INSTRUCTIONS_BYTES says how large a large body is: 4 MiB, or 67108864 to be thorough (some
# minutes).
set -eu
cd "$(dirname "$0")/../.."
CC=${CC:-cc} OUT=${B:-build}/bench HERE=test/bench
large=${INSTRUCTIONS_BYTES:-4194304}
mkdir -p "$OUT/count"
if ! command -v valgrind >/dev/null; then
    echo "instructions: cannot run without valgrind: apt-get install valgrind" >&2
    exit 1
fi
$CC -std=c99 -O2 -g -I. -DMSC4203_NO_SIMD -o "$OUT/count/count" $HERE/count.c
$CC -std=c99 -O2 -DBODIES_MAIN -o "$OUT/bodies" $HERE/bodies.c
passed=0 failed=0

count() { # FILE [CHUNK]: prints instructions and bytes
    valgrind --tool=callgrind --toggle-collect=measured --callgrind-out-file=/dev/null \
        "$OUT/count/count" "$@" >"$OUT/count/out" 2>"$OUT/count/log" || {
        cat "$OUT/count/log" >&2
        exit 1
    }
    echo "$(sed -n 's/.*Collected : //p' "$OUT/count/log") $(sed 's/ .*//' "$OUT/count/out")"
}

verdict() { # an awk condition on a and b
    if awk -v a="$1" -v b="$2" "BEGIN { exit !($3) }"; then
        passed=$((passed + 1)) word=
    else
        failed=$((failed + 1)) word="  TOO MANY"
    fi
}

echo "instructions per byte, in one piece (at most)"
"$OUT/bodies" "$OUT/count"
for row in olm:2.3 small:5.1 mixed:5.5 big:1.3; do
    kind=${row%:*} most=${row#*:}
    set -- $(count "$OUT/count/$kind.json")
    verdict "$1" "$2" "a / b <= 1.05 * $most"
    awk -v k="$kind" -v a="$1" -v b="$2" -v m="$most" -v w="$word" \
        'BEGIN { printf "  %-12s %6.2f  (%.1f)%s\n", k, a / b, m, w }'
done

echo "the same at 64 KiB and at $large bytes, in one piece; and in chunks of 4 KiB"
for kind in olm small mixed big brackets deep backslashes escaped_id keys duplicates string; do
    line=$(printf '  %-12s' "$kind")
    for chunk in whole 4096; do
        [ $chunk != whole ] || chunk=
        "$OUT/bodies" "$OUT/count" $kind 65536
        set -- $(count "$OUT/count/$kind.json" $chunk)
        few=$1 bytes=$2
        "$OUT/bodies" "$OUT/count" $kind "$large"
        set -- $(count "$OUT/count/$kind.json" $chunk)
        few=$(awk -v a="$few" -v b="$bytes" 'BEGIN { printf "%.3f", a / b }')
        many=$(awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }')
        verdict "$many" "$few" "a <= 1.05 * b"
        line="$line $(printf '%8s %8s' "$few" "$many")$word"
    done
    echo "$line"
    rm -f "$OUT/count/$kind.json"
done
echo "instructions to refuse a wrong token: wrong at its beginning, in the middle, at its end"
$CC -std=c99 -O2 -g -I. -o "$OUT/count/tokens" $HERE/tokens.c
a=aaaaaaaa
for where in header query; do
    line=$(printf '  %-12s' $where)
    first=
    for token in b${a#a}$a$a$a $a$a${a#a}b$a $a$a$a${a#a}b bbbbbbbb$a$a$a; do
        valgrind --tool=callgrind --toggle-collect=measured --callgrind-out-file=/dev/null \
            "$OUT/count/tokens" $where "$token" >"$OUT/count/out" 2>"$OUT/count/log" || {
            cat "$OUT/count/log" >&2
            exit 1
        }
        grep -qx -- -103 "$OUT/count/out" || { echo "not refused: $token"; failed=$((failed + 1)); }
        n=$(sed -n 's/.*Collected : //p' "$OUT/count/log")
        verdict "$n" "${first:=$n}" "a == b"
        line="$line $n$word"
    done
    echo "$line"
done
echo "instructions: $passed passed, $failed failed"
[ $failed = 0 ]
