#!/bin/sh
# soak.sh - runs the test suites over and over, each round with another seed and more random cases,
# and the gateway's torture for ten minutes (a sixth of the time, if that is less), until
# SOAK_SECONDS (default 3600) are over. Stops at the first round that fails.
set -u
MAKE=${MAKE:-make}
seconds=${SOAK_SECONDS:-3600}
scale=${TEST_SCALE:-10}
start=$(date +%s)
round=0
log=build/soak.log
mkdir -p build
while :; do
    round=$((round + 1))
    now=$(date +%s)
    seed=$((now * 1000 + round))
    if ! TEST_SCALE=$scale TEST_SEED=$seed $MAKE -s suites >"$log" 2>&1; then
        cat "$log"
        echo "soak: round $round failed: repeat it with TEST_SCALE=$scale TEST_SEED=$seed make test"
        exit 1
    fi
    now=$(date +%s)
    echo "round $round, seed $seed, after $((now - start)) s: $(tail -n 1 "$log")"
    [ $((now - start)) -lt "$seconds" ] || break
    # A year of the gateway's, in as much as ten minutes.
    year=$((seconds / 6 < 600 ? seconds / 6 : 600))
    if ! $MAKE -s build/gateway build/appservice >"$log" 2>&1 ||
        ! sh test/gateway/run.sh torture $year "$seed" >"$log" 2>&1; then
        cat "$log"
        echo "soak: repeat it with sh test/gateway/run.sh torture $year $seed"
        exit 1
    fi
    tail -n 1 "$log"
    now=$(date +%s)
    [ $((now - start)) -lt "$seconds" ] || break
done
