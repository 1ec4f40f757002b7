#!/bin/sh
# stack.sh - measures the library's stack: no function needs more than 256 bytes, none is of
# variable size, none calls itself or is called through a pointer (but for a log's
# storage, a queue, and callbacks). Needs gcc (-fstack-usage and
# -fcallgraph-info); says so where the compiler is another. Environment: B (build folder), CC; with
# STACK_STRICT=1 a compiler that cannot tell is a failure. Prints `stack: N passed, N failed`.
set -u
B=${B:-build} CC=${CC:-cc}
dir=$B/stack
rm -rf "$dir"
mkdir -p "$dir"
passed=0 failed=0

count() {
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "stack: $2: failed"
    fi
}

knows() {
    echo 'int msc4203_x(void); int msc4203_x(void) { return 1; }' >"$dir/flag.c"
    $CC "$@" -c -o "$dir/flag.o" "$dir/flag.c" >"$dir/out" 2>&1 && [ ! -s "$dir/out" ]
}

# Reads a .su file: function TAB bytes TAB kind.
frames() {
    awk -F '\t' -v limit=256 '
        { if ($2 > worst) { worst = $2; name = $1 } }
        $2 > limit { print "    " $1 ": " $2 " bytes"; bad = 1 }
        # "bounded": arguments are put on the stack for calls in between
        $3 != "static" && $3 != "dynamic,bounded" { print "    " $1 ": its size is " $3; bad = 1 }
        END {
            sub(/.*:/, "", name)
            if (!NR) bad = 1
            printf "stack: %d functions, the largest frame: %d bytes (%s)\n", NR, worst, name
            exit bad
        }' "$1"
}

# Reads the graph that gcc writes (nodes with their frame, edges from caller to callee). Takes
# away, again and again, the functions that call nothing that is still there: what remains calls
# itself.
calls() {
    awk -F '"' -v pointers='log_|msc4203_route|sender_|sync_|change_|expire' '
        /^node:/ { if (match($4, /[0-9]+ bytes/)) frame[$2] = substr($4, RSTART) + 0
                   if (!($2 in left)) { left[$2] = 1; nodes++ } }
        /^edge:/ {
            if ($4 == "__indirect_call" && $2 !~ pointers) {
                print "    " $2 ": calls through a pointer"; bad = 1
            }
            if (!(($2, $4) in edge)) { edge[$2, $4] = 1; from[++edges] = $2; to[edges] = $4 }
        }
        END {
            do {
                moved = 0
                for (n in left) busy[n] = 0
                for (i = 1; i <= edges; i++)
                    if ((from[i] in left) && (to[i] in left)) busy[from[i]] = 1
                for (n in left) if (!busy[n]) {
                    delete left[n]; moved = 1
                    chain[n] = frame[n]
                    for (i = 1; i <= edges; i++)
                        if (from[i] == n && frame[n] + chain[to[i]] > chain[n])
                            chain[n] = frame[n] + chain[to[i]]
                    if (chain[n] > worst) { worst = chain[n]; first = n }
                }
            } while (moved)
            for (n in left) { print "    " n ": is or calls a recursive function"; bad = 1 }
            if (!nodes) bad = 1
            sub(/.*:/, "", first)
            printf "stack: %d calls, the deepest chain: %d bytes (%s)\n", edges, worst, first
            exit bad
        }' "$1"
}

# An awk's mistake must not pass for a good result.
cat >"$dir/loop.ci" <<'VCG'
graph: {
node: { title: "a" label: "a\n8 bytes (static)" }
node: { title: "b" label: "b" }
edge: { sourcename: "a" targetname: "b" }
edge: { sourcename: "b" targetname: "a" }
}
VCG
calls "$dir/loop.ci" >/dev/null
count $((! $?)) 'a recursion is found'
printf 'a.c:1:1:a\t264\tstatic\n' >"$dir/large.su"
frames "$dir/large.su" >/dev/null
count $((! $?)) 'a large frame is found'

if knows -fstack-usage; then
    for options in -O2 -Os '-O2 -DMSC4203_NO_SIMD' '-O2 -DMSC4203_NO_SIMD -DMSC4203_NO_WORDS' \
        '-Os -DMSC4203_NO_SIMD -DMSC4203_NO_WORDS'; do
        echo "stack: $options"
        rm -f "$dir"/*.su
        $CC -std=c99 -I. $options -fstack-usage -c -o "$dir/msc4203.o" msc4203.c &&
            frames "$dir/msc4203.su"
        count $? "frames of at most 256 bytes with $options"
    done
else
    echo "stack: left out: frame sizes: $CC does not know -fstack-usage (use CC=gcc)"
    count "${STACK_STRICT:-0}" 'the compiler can tell'
fi
if knows -fcallgraph-info=su; then
    # At -O0 nothing is inlined: a recursion stands there as it was written.
    for options in -O0 -O2 -Os '-O0 -DMSC4203_NO_SIMD -DMSC4203_NO_WORDS'; do
        echo "stack: $options"
        rm -f "$dir"/*.ci
        $CC -std=c99 -I. $options -fcallgraph-info=su -c -o "$dir/msc4203.o" msc4203.c &&
            calls "$dir/msc4203.ci"
        count $? "no recursion with $options"
    done
else
    echo "stack: left out: recursion: $CC does not know -fcallgraph-info (use CC=gcc)"
    count "${STACK_STRICT:-0}" 'the compiler can tell'
fi
echo "stack: $passed passed, $failed failed"
[ $failed -eq 0 ]
