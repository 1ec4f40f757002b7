#!/bin/sh
# test/bench/run.sh - `make bench`: builds the benchmark and runs it.
#
# Measures this library against simdjson, RapidJSON, cJSON, jansson and, where there is cargo,
# serde_json. BENCH_SECONDS (60) is about how long it takes, BENCH_ROUNDS (15) how often each has
# its turn: BENCH_SECONDS=5 BENCH_ROUNDS=3 is a quick look. Then the queue, beside SQLite and LMDB,
# as long again and longer: from 30 seconds on also with a million messages, 6 GiB of memory and a
# file of 1 GiB; BENCH_ONLY=queue leaves out the rest, and BENCH_QUEUE (see queue.c) is a part of
# it. OLD_HEADER=/path/to/msc4203.h is an older version of the library, to be measured beside this
# one: what differs is behind queue_ours.c. Then the gateway, for about half as long, with
# build/gateway and build/appservice on loopback; BENCH_ONLY=gateway measures nothing else, and
# needs none of the packages.
set -eu
cd "$(dirname "$0")/../.."
CC=${CC:-cc} CXX=${CXX:-c++} OUT=${B:-build}/bench HERE=test/bench
mkdir -p "$OUT"

gateway() {
    $CC -std=c99 -O2 -I. -o "$OUT/load" $HERE/load.c || return 1
    # Counts the programs' syncs, or leaves them out: loaded before the C library.
    $CC -std=c99 -O2 -fPIC -shared -o "$OUT/sync.so" $HERE/sync.c || return 1
    rm -f "$OUT/gateway.md"
    status=0
    "$OUT/load" "$OUT" "${B:-build}" "$(cd "$OUT" && pwd)/sync.so" || status=$?
    rm -f "$OUT/gateway.store" "$OUT/gateway.disk" "$OUT/gateway.out" # the large ones
    [ $status = 0 ] || return $status
    echo
    cat "$OUT/gateway.md" # there is none, if it has not run
    if command -v python3 >/dev/null; then # how long others make a client wait
        MEASURE=1 sh test/gateway/run.sh load.Load.test_a_thousand_others
    else
        echo "bench: left out: a gateway with a thousand other connections: python3 is missing"
    fi
}

# How the queue over SQLite grows.
sqlite() {
    $CC -std=c99 -O2 -I. -Iexample -I$HERE -o "$OUT/sqlite" $HERE/sqlite.c example/queue_sqlite.c \
        msc4203.c -lsqlite3 || return 1
    most=1000000
    [ "${BENCH_SECONDS:-60}" -ge 30 ] || most=100000
    status=0
    "$OUT/sqlite" "$OUT" $most || status=$?
    rm -f "$OUT"/sqlite.*.db*
    echo
    [ $status != 0 ] || cat "$OUT/sqlite.md"
    return $status
}

if [ "${BENCH_ONLY:-}" = gateway ]; then
    gateway
    exit
fi

missing=
need_header() { # HEADER PACKAGE
    echo "#include <$1>" | $CXX -std=c++17 -E -x c++ - >"$OUT/check.i" 2>/dev/null ||
        missing="$missing $2"
}
if ! command -v "$CXX" >/dev/null; then
    missing=" g++ libsimdjson-dev rapidjson-dev libcjson-dev libjansson-dev libsqlite3-dev
    liblmdb-dev"
else
    need_header simdjson.h libsimdjson-dev
    need_header rapidjson/reader.h rapidjson-dev
    need_header cjson/cJSON.h libcjson-dev
    need_header jansson.h libjansson-dev
    need_header sqlite3.h libsqlite3-dev
    need_header lmdb.h liblmdb-dev
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

# The queue: the log in plain C, and with instructions for vectors and checksums; beside SQLite and
# LMDB, and an older version of the log, if there is one.
vector= crc_is=
case $(echo | $CC -dM -E - | grep -o '__x86_64__\|__aarch64__' || :) in
__x86_64__) vector=-msse4.2 ;;
__aarch64__) vector=-march=armv8-a+crc crc_is=-DBENCH_CRC ;;
esac
$c -DNAME=queue_plain -DMSC4203_NO_SIMD -c $HERE/queue_ours.c -o "$OUT/queue_plain.o"
$c $vector -DNAME=queue_vector -c $HERE/queue_ours.c -o "$OUT/queue_vector.o"
old=
if [ -n "${OLD_HEADER:-}" ]; then
    old="$OUT/old_plain.o $OUT/old_vector.o"
    header="\"$(cd "$(dirname "$OLD_HEADER")" && pwd)/$(basename "$OLD_HEADER")\""
    $c -DBENCH_OLD="$header" -DNAME=old_plain -DMSC4203_NO_SIMD -c $HERE/queue_ours.c \
        -o "$OUT/old_plain.o"
    $c $vector -DBENCH_OLD="$header" -DNAME=old_vector -c $HERE/queue_ours.c \
        -o "$OUT/old_vector.o"
fi
$c $crc_is ${old:+-DBENCH_OLD_TOO} -c $HERE/queue.c -o "$OUT/queue.o"
# shellcheck disable=SC2086
$CC -o "$OUT/queue" "$OUT/queue.o" "$OUT/queue_plain.o" "$OUT/queue_vector.o" $old -lsqlite3 -llmdb

if [ "${BENCH_ONLY:-}" != queue ]; then
    "$OUT/bench" "$OUT"
    echo
    cat "$OUT/bench.md"
fi
queue=0
rm -f "$OUT/queue.md"
"$OUT/queue" "$OUT" || queue=$?
rm -f "$OUT"/queue.log* "$OUT"/queue.old* "$OUT"/queue.db* "$OUT"/queue.mdb* "$OUT/queue.disk" \
    "$OUT/queue.big"* # if it has failed
echo
cat "$OUT/queue.md"
sqlite || queue=$?
[ "${BENCH_ONLY:-}" = queue ] || gateway || queue=$?
echo "The tables and the pictures are $OUT/bench.md, queue.md, sqlite.md, gateway.md, reading.svg"
echo "and writing.svg. For the README:"
echo "  cp $OUT/bench.md $OUT/queue.md $OUT/sqlite.md $OUT/gateway.md $OUT/*ing.svg \\"
echo "      $HERE/results/"
exit $queue
