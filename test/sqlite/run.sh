#!/bin/sh
# test/sqlite/run.sh - `make test-sqlite`: the contract test on example/queue_sqlite.c, and two
# processes on one file. Needs SQLite and its header. Environment: B (build folder), CC.
set -eu
cd "$(dirname "$0")/../.."
out=${B:-build}/sqlite
mkdir -p "$out" build/sqlite
echo '#include <sqlite3.h>
int main(void) { return sqlite3_libversion_number() == 0; }' >"$out/probe.c"
if ! ${CC:-cc} -o "$out/probe" "$out/probe.c" -lsqlite3 2>/dev/null; then
    echo "test-sqlite: cannot run without SQLite: apt-get install libsqlite3-dev" >&2
    exit 1
fi
${CC:-cc} -std=c99 -O2 -Wall -Wextra -I. -Iexample -Itest -o "$out/test_sqlite" \
    test/sqlite/test_sqlite.c example/queue_sqlite.c msc4203.c -lsqlite3
exec "$out/test_sqlite"
