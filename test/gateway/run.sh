#!/bin/sh
# run.sh - tests the gateway and the appservice over real sockets. Needs python3, its standard
# library alone. Environment: B (build folder), GATEWAY and APPSERVICE (other builds of the
# programs), CC, SANITIZED (those are builds whose memory is not measured). Arguments: the tests to run,
# all when there are none, or `torture [SECONDS [SEED]]`. The last line is
# `gateway: N passed, N failed`, or the same of `torture`.
set -u
B=${B:-build} PYTHONDONTWRITEBYTECODE=1
WORK=$PWD/$B/gateway-test.$$ # several runs do not disturb each other
case $B in /*) WORK=$B/gateway-test.$$ ;; esac
export B PYTHONDONTWRITEBYTECODE WORK
name=gateway
[ "${1-}" = torture ] && name=torture && shift
if ! command -v python3 >/dev/null; then
    echo "$name: python3 is missing: nothing was tested"
    echo "$name: 0 passed, 1 failed"
    exit 1
fi
mkdir -p "$WORK"
if ! ${CC:-cc} -O1 -shared -fPIC -o "$WORK/shim.so" test/gateway/shim.c -ldl; then
    echo "$name: 0 passed, 1 failed"
    exit 1
fi
if [ $name = torture ]; then
    python3 test/gateway/torture.py "$@"
    status=$?
else
    python3 test/gateway/run.py "$@"
    status=$?
fi
[ $status -ne 0 ] && [ $name = torture ] || rm -rf "$WORK" # what the torture says that it kept
exit $status
