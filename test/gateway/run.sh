#!/bin/sh
# run.sh - tests the gateway and the appservice over real sockets. Needs python3, its standard
# library alone. Environment: B (build folder), GATEWAY and APPSERVICE (other builds of the
# programs), SANITIZED (those are builds whose memory is not measured). Arguments: the tests to run,
# all when there are none, or `torture [SECONDS [SEED]]`. The last line is
# `gateway: N passed, N failed`, or the same of `torture`.
set -u
B=${B:-build} PYTHONDONTWRITEBYTECODE=1
export B PYTHONDONTWRITEBYTECODE
name=gateway
[ "${1-}" = torture ] && name=torture && shift
if ! command -v python3 >/dev/null; then
    echo "$name: python3 is missing: nothing was tested"
    echo "$name: 0 passed, 1 failed"
    exit 1
fi
if [ $name = torture ]; then
    exec python3 test/gateway/torture.py "$@"
fi
rm -rf "$B/gateway-test"
python3 test/gateway/run.py "$@"
status=$?
rm -rf "$B/gateway-test"
exit $status
