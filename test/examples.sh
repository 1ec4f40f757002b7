#!/bin/sh
# examples.sh - takes the examples out of the manual in msc4203.h (```c example) and out of
# README.md (every ```c), compiles each as it stands and runs it on a captured transaction: it must
# name every recipient. The manual's server (```c server) must deliver what it is sent, and example/flash.c must
# lose nothing. Environment: B (build folder), CC. Prints `examples: N passed, N failed`.
set -u
B=${B:-build} CC=${CC:-cc}
dir=$B/examples
input=test/data/synapse/transactions/015-td-multi-user.json
rm -rf "$dir"
mkdir -p "$dir"
suite=examples
WARN='-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow'

. test/check.sh

# extract PREFIX START: the blocks of standard input become PREFIX1.c, PREFIX2.c, ...
extract() {
    awk -v prefix="$1" -v start="$2" '
        $0 == start { file = prefix (++n) ".c"; printf "" >file; next }
        $0 == "```" && file { close(file); file = "" }
        file { print >file }'
}

# The manual, without the frame of its comment.
manual() {
    sed -n '/^ \* /s///p; /^ \*$/s/.*//p; /^ \*\//q' msc4203.h
}

names_all() {
    tr ',{}' '\n\n\n' <"$input" |
        sed -n 's/.*"to_user_id":"\([^"]*\)".*/\1/p' | sort -u >"$dir/users"
    [ -s "$dir/users" ] || return 1
    "$@" <"$input" >"$dir/output" || return 1
    cat "$dir/output"
    while read -r user; do
        grep -qF "$user" "$dir/output" || { echo "does not name $user"; return 1; }
    done <"$dir/users"
}

manual | extract "$dir/manual" '```c example'
check 'the manual has an example' test -f "$dir/manual1.c"
check 'there is a README.md' test -f README.md
[ ! -f README.md ] || extract "$dir/readme" '```c' <README.md
check 'the README has an example' test -f "$dir/readme1.c"

for source in "$dir"/manual*.c "$dir"/readme*.c; do
    [ -f "$source" ] || continue
    name=${source##*/}
    program=${source%.c}
    check "$name compiles" silent $CC -std=c99 $WARN -O1 -I. -o "$program" "$source"
    check "$name names all recipients" names_all "$program"
    # The example must notice a broken body.
    check "$name refuses half a body" sh -c 'head -c 300 "$1" | "$2" >/dev/null; test $? -eq 1' - \
        "$input" "$program"
done
# The server: it says what it would send, and what its client gets.
manual | extract "$dir/server" '```c server'
check 'the manual has a server' test -f "$dir/server1.c"
check 'server1.c compiles' silent $CC -std=c99 $WARN -O1 -I. -o "$dir/server1" "$dir/server1.c"
# shellcheck disable=SC2016
check 'server1.c delivers' sh -c 'cd "$1" && ./server1 >said && cat said &&
    grep -q "PUT /_matrix/app/v1/transactions/" said && grep -q "\"to_user_id\":\"@_irc_bob" said &&
    grep -q "\"to_device\":{\"events\":\[{\"content\":{\"n\":2}" said' - "$dir"
# A log on a flash chip whose power fails 300 times; the program checks that nothing is lost.
check 'flash.c compiles' silent $CC -std=c99 $WARN -O1 -I. -o "$dir/flash" example/flash.c msc4203.c
for seed in 1 2 3; do
    # shellcheck disable=SC2016
    check "flash $seed" sh -c '"$1" "$2" | grep "each once and in order, through 300 resets"' - \
        "$dir/flash" "$seed"
done
echo "examples: $passed passed, $failed failed"
[ $failed -eq 0 ]
