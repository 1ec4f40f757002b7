#!/bin/sh
# run.sh - tests the gateway and the appservice over real sockets. Needs python3, its standard
# library alone. Environment: B (build folder), GATEWAY and APPSERVICE (other builds of the
# programs). Arguments: the tests to run, all when there are none. The last line is
# `gateway: N passed, N failed`.
set -u
B=${B:-build}
export B
if ! command -v python3 >/dev/null; then
    echo 'gateway: python3 is missing: nothing was tested'
    echo 'gateway: 0 passed, 1 failed'
    exit 1
fi
rm -rf "$B/gateway-test"
python3 test/gateway/run.py "$@"
status=$?
rm -rf "$B/gateway-test"
exit $status
