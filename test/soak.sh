#!/bin/sh
# soak.sh - runs the test suites over and over, each round with another seed and more random cases,
# until SOAK_SECONDS (default 3600) are over. Stops at the first round that fails.
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
done
