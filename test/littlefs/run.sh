#!/bin/sh
# test/littlefs/run.sh - `make test-littlefs`: the log on littlefs, over example/littlefs.h, on an
# emulated NOR flash chip that loses its power. Needs a C compiler, and Python with pip, which
# fetches littlefs once (requirements.txt has the version and its checksum). Environment: B (build
# folder), CC, PYTHON, TEST_SHARE, TEST_SCALE, TEST_SEED. Ends with `littlefs: N passed, N failed`.
set -u
cd "$(dirname "$0")/../.." || exit 1
cc=${CC:-cc} python=${PYTHON:-python3} here=test/littlefs dir=${B:-build}/littlefs
missing=0

need() { # PACKAGE COMMAND...: the command must work
    package=$1
    shift
    "$@" >/dev/null 2>&1 && return
    echo "test-littlefs: $1 is missing or does not work. On Debian: apt-get install $package" >&2
    missing=1
}
mkdir -p "$dir" || exit 1
echo 'int main(void) { return 0; }' >"$dir/probe.c"
# shellcheck disable=SC2086
need gcc $cc -o "$dir/probe" "$dir/probe.c"
need python3 "$python" -c ''
need python3-venv "$python" -c 'import ensurepip, venv'
[ $missing -eq 0 ] || exit 1

# Once, as long as what is asked for stays the same. pip asks the package for its metadata, for
# which it installs what the package is built with; none of that is used here.
fetch() {
    cmp -s $here/requirements.txt "$dir/requirements.txt" && return
    rm -rf "$dir/python" "$dir/fetched" "$dir/source" "$dir/requirements.txt"
    "$python" -m venv "$dir/python" &&
        "$dir/python/bin/pip" download --disable-pip-version-check --no-deps --require-hashes \
            --no-binary littlefs-python -d "$dir/fetched" -r $here/requirements.txt &&
        mkdir "$dir/source" &&
        tar -xzf "$dir"/fetched/littlefs_python-*.tar.gz -C "$dir/source" --strip-components=1 &&
        cp $here/requirements.txt "$dir/"
}
if ! fetch >"$dir/log" 2>&1; then
    tail -n 20 "$dir/log" >&2
    echo "test-littlefs: littlefs can't be fetched. Is the Python package index within reach?" >&2
    exit 1
fi

rm -f "$dir/test_littlefs"
lfs=$dir/source/littlefs
options='-DLFS_NO_MALLOC -DLFS_NO_DEBUG -DLFS_NO_WARN -DLFS_NO_ERROR'
# shellcheck disable=SC2086
$cc -std=c99 -O2 ${CFLAGS:-} $options -I"$lfs" -c -o "$dir/lfs.o" "$lfs/lfs.c" &&
    $cc -std=c99 -O2 ${CFLAGS:-} $options -I"$lfs" -c -o "$dir/lfs_util.o" "$lfs/lfs_util.c" &&
    $cc -std=c99 -O2 -Wall -Wextra ${CFLAGS:-} $options -I. -Iexample -Itest -I"$lfs" \
        -o "$dir/test_littlefs" $here/test_littlefs.c msc4203.c "$dir/lfs.o" "$dir/lfs_util.o" ||
    exit 1
exec "$dir/test_littlefs"
