#!/bin/sh
# test/bench/run.sh - `make bench`: builds the benchmark and runs it.
#
# Measures this library against simdjson, RapidJSON, cJSON, jansson and, where there is cargo,
# serde_json. BENCH_SECONDS (60) is about how long it takes, BENCH_ROUNDS (15) how often each has
# its turn: BENCH_SECONDS=5 BENCH_ROUNDS=3 is a quick look.
set -eu
cd "$(dirname "$0")/../.."
CC=${CC:-cc} CXX=${CXX:-c++} OUT=${B:-build}/bench HERE=test/bench
mkdir -p "$OUT"

missing=
need_header() { # HEADER PACKAGE
    echo "#include <$1>" | $CXX -std=c++17 -E -x c++ - >"$OUT/check.i" 2>/dev/null ||
        missing="$missing $2"
}
if ! command -v "$CXX" >/dev/null; then
    missing=" g++ libsimdjson-dev rapidjson-dev libcjson-dev libjansson-dev"
else
    need_header simdjson.h libsimdjson-dev
    need_header rapidjson/reader.h rapidjson-dev
    need_header cjson/cJSON.h libcjson-dev
    need_header jansson.h libjansson-dev
fi
if [ -n "$missing" ]; then
    echo "bench: cannot run without these packages: apt-get install$missing" >&2
    exit 1
fi

serde= serde_lib=
if command -v cargo >/dev/null; then
    cargo build --release --quiet --manifest-path $HERE/serde/Cargo.toml \
        --target-dir "$OUT/serde"
    version=$(sed -n 's/^serde_json .*"=\([0-9.]*\)".*/\1/p' $HERE/serde/Cargo.toml)
    serde="-DBENCH_SERDE=\"$version\"" serde_lib="$OUT/serde/release/libbench_serde.a"
else
    echo "bench: no cargo, so serde_json is left out"
fi

# Everything at -O2. simdjson's headers also get all that this machine offers, which decides the
# kernel that On-Demand uses; its library, that of the parser, chooses by itself.
c="$CC -std=c99 -O2 -I. -I$HERE"
x86=$(echo | $CC -dM -E - | grep -c '__x86_64__' || :)
avx2=; [ "$x86" = 0 ] || avx2=-mavx2
$c -DNAME=plain -DMSC4203_NO_SIMD -c $HERE/ours.c -o "$OUT/plain.o"
$c -DNAME=vector -c $HERE/ours.c -o "$OUT/vector.o"
$c -DNAME=avx2 $avx2 -c $HERE/ours.c -o "$OUT/avx2.o"
# What the validation costs: a copy without it, for this measurement alone.
mkdir -p "$OUT/unchecked"
sed 's/return writer_check(w, /return 1 ? MSC4203_OK : writer_check(w, /' msc4203.h \
    >"$OUT/unchecked/msc4203.h"
if cmp -s msc4203.h "$OUT/unchecked/msc4203.h"; then
    echo 'bench: there is no validation to leave out' >&2
    exit 1
fi
$CC -std=c99 -O2 -I"$OUT/unchecked" -I. -I$HERE -DNAME=unchecked -c $HERE/ours.c \
    -o "$OUT/unchecked.o"
for file in items bodies chart peer_dom; do
    $c -c $HERE/$file.c -o "$OUT/$file.o"
done
$c $serde -c $HERE/bench.c -o "$OUT/bench.o"
$CXX -std=c++17 -O2 -march=native -I. -c $HERE/peer_simdjson.cpp -o "$OUT/peer_simdjson.o"
$CXX -std=c++17 -O2 -I. -c $HERE/peer_rapidjson.cpp -o "$OUT/peer_rapidjson.o"
$CXX -o "$OUT/bench" "$OUT"/bench.o "$OUT"/plain.o "$OUT"/vector.o "$OUT"/avx2.o \
    "$OUT"/unchecked.o "$OUT"/items.o "$OUT"/bodies.o "$OUT"/chart.o "$OUT"/peer_dom.o \
    "$OUT"/peer_simdjson.o "$OUT"/peer_rapidjson.o $serde_lib \
    -lsimdjson -lcjson -ljansson -lpthread -ldl -lm

"$OUT/bench" "$OUT"
echo
cat "$OUT/bench.md"
echo "The table and the pictures are $OUT/bench.md, reading.svg and writing.svg. For the README:"
echo "  cp $OUT/bench.md $OUT/reading.svg $OUT/writing.svg $HERE/results/"
