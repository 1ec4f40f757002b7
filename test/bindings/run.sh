#!/bin/sh
# run.sh - what `make bindings` runs: calls the library, as a shared object, from two languages
# that know nothing of C: Python (ctypes) and Go (purego, without cgo). Only the shared object
# itself needs a C compiler. Everything is built under build/bindings. To be run in the project's
# root; CC, PYTHON and GO name the programs.
set -u
dir=build/bindings
cc=${CC:-cc} python=${PYTHON:-python3} go=${GO:-go}
missing=0

need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null && return
    echo "bindings: $1 is missing. On Debian: apt-get install $2" >&2
    missing=1
}
need "$cc" gcc
need "$python" python3
need "$go" golang-go
[ $missing -eq 0 ] || exit 1

mkdir -p $dir
failed=0
# shellcheck disable=SC2086
$cc -std=c99 -O2 ${CFLAGS:-} -shared -fPIC msc4203.c -o $dir/libmsc4203.so || exit 1

"$python" -B test/bindings/test_ctypes.py $dir/libmsc4203.so || failed=1

# Without cgo nothing of C is compiled; that CC fails shows it.
root=$PWD
(cd test/bindings/go && CGO_ENABLED=0 CC=false "$go" build -o "$root/$dir/test_go" .) || {
    echo "bindings: the Go program does not build. Is the Go module proxy within reach?" >&2
    exit 1
}
$dir/test_go $dir/libmsc4203.so || failed=1
exit $failed
