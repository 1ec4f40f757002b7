#!/bin/sh
# stack.sh - measures the library's stack: no function needs more than 256 bytes, none is of
# variable size, none calls itself or is called through a pointer (but for a log's storage, a queue,
# and callbacks). Needs gcc (-fstack-usage and -fcallgraph-info); says so where the compiler is
# another. Environment: B (build folder), CC; with STACK_STRICT=1 a compiler that cannot tell is a
# failure, and more options are tried. Prints `stack: N passed, N failed`.
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

# knows FLAG FILE: whether the compiler takes it, and writes FILE. Some ignore what they do not know.
knows() {
    rm -f "$dir/$2"
    echo 'int msc4203_x(void); int msc4203_x(void) { return 1; }' >"$dir/flag.c"
    $CC "$1" -c -o "$dir/flag.o" "$dir/flag.c" >"$dir/out" 2>&1 && [ -s "$dir/$2" ]
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

# measure FRAMES CALLS OPTIONS: compiles with these options, and looks at what is 1 of the two.
measure() {
    echo "stack: $3"
    rm -f "$dir"/msc4203.*
    $CC -std=c99 -I. $3 ${usage:+-fstack-usage} ${graph:+-fcallgraph-info=su} -c \
        -o "$dir/msc4203.o" msc4203.c || count 1 "compiles with $3"
    if [ "$1$usage" = 11 ]; then
        frames "$dir/msc4203.su"
        count $? "frames of at most 256 bytes with $3"
    fi
    if [ "$2$graph" = 11 ]; then
        calls "$dir/msc4203.ci"
        count $? "no recursion with $3"
    fi
}

usage= graph=
knows -fstack-usage flag.su && usage=1
knows -fcallgraph-info=su flag.ci && graph=1
if [ -z "$usage" ] || [ -z "$graph" ]; then
    echo "stack: left out: $CC does not tell frames or calls (use CC=gcc)"
    count "${STACK_STRICT:-0}" 'the compiler can tell'
fi
if [ -n "$usage$graph" ]; then
    plain='-DMSC4203_NO_SIMD -DMSC4203_NO_WORDS'
    measure 0 1 -O0 # where nothing is inlined, a recursion stands as it was written
    measure 1 1 -O2
    measure 1 1 -Os
    measure 1 1 "-Os $plain"
    if [ "${STACK_STRICT:-0}" -ne 0 ]; then
        measure 1 0 '-O2 -DMSC4203_NO_SIMD'
        measure 1 0 "-O2 $plain"
        measure 0 1 "-O0 $plain"
    fi
fi
echo "stack: $passed passed, $failed failed"
[ $failed -eq 0 ]
