#!/bin/sh
# build.sh - builds the fuzz targets in the way of OSS-Fuzz (and of anything else that sets the same
# variables): for each target $OUT/NAME, NAME_seed_corpus.zip, NAME.dict and NAME.options.
#
#   CC, CFLAGS            the compiler, the instrumentation (-fsanitize=address,fuzzer-no-link)
#   LIB_FUZZING_ENGINE    what to link (e.g. -fsanitize=fuzzer)
#   OUT                   where everything goes
#   SRC                   optional: the project is $SRC/msc4203; else it is the folder above
#
# OSS-Fuzz links with $CXX, for its engine is C++; without CXX, $CC links.
set -eu
: "${CC:=clang}" "${CFLAGS:=}" "${LIB_FUZZING_ENGINE:=-fsanitize=fuzzer}" "${OUT:?}"
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
if [ -n "${SRC:-}" ] && [ -f "$SRC/msc4203/msc4203.c" ]; then
    here=$SRC/msc4203
fi
mkdir -p "$OUT"
OUT=$(CDPATH='' cd -- "$OUT" && pwd)
work=${WORK:-$OUT/work}
mkdir -p "$work"
cd "$here"

# shellcheck disable=SC2086
$CC $CFLAGS -std=c99 -I. -c msc4203.c -o "$work/msc4203.o"
sh fuzz/seeds.sh "$work/corpus"
for source in fuzz/fuzz_*.c; do
    name=$(basename "$source" .c)
    # shellcheck disable=SC2086
    $CC $CFLAGS -std=c99 -I. -c "$source" -o "$work/$name.o"
    # shellcheck disable=SC2086
    ${CXX:-$CC} ${CXXFLAGS:-$CFLAGS} "$work/$name.o" "$work/msc4203.o" \
        $LIB_FUZZING_ENGINE -o "$OUT/$name"
    rm -f "$OUT/${name}_seed_corpus.zip"
    zip -q -j -X "$OUT/${name}_seed_corpus.zip" "$work/corpus/$name"/*
    cp fuzz/msc4203.dict "$OUT/$name.dict"
    printf '[libfuzzer]\nmax_len = 4096\ndict = %s.dict\n' "$name" >"$OUT/$name.options"
done
