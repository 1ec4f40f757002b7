#!/bin/sh
# mutants.sh [NAME...] - puts one fault at a time into a copy of msc4203.h and runs the test suites
# on it: each fault must be caught, by a failed check, a crash or a hang. test/mutants/list says
# which faults, and in which suites to look for each.
#
# `sh test/mutants.sh --check` tells in a moment which of them no longer find their text in
# msc4203.h, and so have to be adapted. Each fault, as a difference: build/mutants/NAME/diff.
set -u
CC=${CC:-cc}
TEST_SHARE=${TEST_SHARE:-4}
export TEST_SHARE CC
dir=build/mutants
list=test/mutants/list
limit=60 # seconds of processor time, which do not depend on what else the machine does
self=$0

# The names in the list, one a line; or, of one mutant, its suites.
names() {
    sed -n 's/^mutant \([a-z0-9-]*\)$/\1/p' "$list"
}
suites_of() {
    awk -v name="$1" '/^mutant / { here = $2 == name } here && /^by / { sub(/^by /, ""); print }' \
        "$list"
}

# The flags of the build in which a mutant lives.
flags_of() {
    awk -v name="$1" '/^mutant / { here = $2 == name }
        here && /^with / { sub(/^with /, ""); print }' "$list"
}

# mutate NAME: prints the header with the fault, or fails when its text is not there exactly once.
# Wherever the text has blanks or line breaks, the header may have others.
mutate() {
    awk -v name="$1" -v list="$list" '
        # A pattern for the text: its own characters, and blanks of any kind for its blanks.
        function pattern(text,    i, c, out) {
            for (i = 1; i <= length(text); i++) {
                c = substr(text, i, 1)
                if (c ~ /[ \t\n]/) out = out (out ~ /\+$/ ? "" : "[ \t\n]+")
                else if (c == "^") out = out "\\^"
                else if (c == "\\") out = out "\\\\"
                else if (c ~ /[A-Za-z0-9_]/) out = out c
                else out = out "[" c "]"
            }
            return out
        }
        function trimmed(text) {
            sub(/^[ \t\n]+/, "", text)
            sub(/[ \t\n]+$/, "", text)
            return text
        }
        BEGIN {
            while ((getline line <list) > 0) {
                if (line ~ /^mutant /) here = line == "mutant " name
                if (!here) continue
                if (line ~ /^- /) old = old (olds++ ? "\n" : "") substr(line, 3)
                if (line ~ /^\+ /) new = new (news++ ? "\n" : "") substr(line, 3)
            }
            old = trimmed(old)
            new = trimmed(new)
            RS = "\001" # all at once: to append line by line takes mawk a second
        }
        { text = text $0 }
        END {
            if (old == "" || old == new || !match(text, pattern(old))) exit 1
            at = RSTART
            bytes = RLENGTH
            if (match(substr(text, at + 1), pattern(old))) exit 1
            printf "%s%s%s", substr(text, 1, at - 1), new, substr(text, at + bytes)
        }' msc4203.h
}

# place DIR: makes a folder in which a suite finds what it reads, and has room of its own to write.
place() {
    sh test/shadow.sh "$1"
    mkdir -p "$1/build/test"
    ln -s "$PWD/build/msc4203" "$PWD/build/bodies" "$1/build/"
}

# try NAME: leaves DIR/NAME/result, one line: "caught by ..." or what went wrong.
try() {
    here=$dir/$1
    place "$here"
    if ! mutate "$1" >"$here/msc4203.h"; then
        echo "its text is not in msc4203.h exactly once: adapt $list" >"$here/result"
        return
    fi
    diff -u msc4203.h "$here/msc4203.h" >"$here/diff"
    if ! $CC -std=c99 -O1 $(flags_of "$1") -c -o "$here/msc4203.o" "$here/msc4203.c" \
        >"$here/log" 2>&1; then
        echo "does not compile" >"$here/result"
        return
    fi
    for suite in $(suites_of "$1"); do
        if ! $CC -o "$here/suite_$suite" "$dir/test_$suite.o" "$here/msc4203.o" >>"$here/log" 2>&1
        then
            echo "does not link with $suite" >"$here/result"
            return
        fi
    done
    for share in $TEST_SHARE 1; do # what is met seldom, the whole suite must meet
        for suite in $(suites_of "$1"); do
            (ulimit -t $((share == 1 ? 4 * limit : limit)) && ulimit -c 0 && cd "$here" &&
                TEST_SHARE=$share exec "./suite_$suite") >"$here/$suite.log" 2>&1 </dev/null
            status=$?
            case $status in
            0) ;;
            137 | 152) echo "caught by $suite: does not end" >"$here/result" ;;
            1) echo "caught by $suite: $(tail -n 1 "$here/$suite.log")" >"$here/result" ;;
            *) echo "caught by $suite: ended with status $status" >"$here/result" ;;
            esac
            if [ $status -ne 0 ]; then
                rm -f "$here"/suite_*
                return
            fi
        done
    done
    rm -f "$here"/suite_*
    echo "NOT CAUGHT" >"$here/result"
}

if [ "${1:-}" = --try ]; then
    try "$2"
    exit
fi
mkdir -p "$dir"
command -v ${CC%% *} >/dev/null || {
    echo "mutants: $CC is missing: apt-get install gcc"
    exit 1
}
if [ "${1:-}" = --check ]; then
    shift
    lost=0
    for name in ${*:-$(names)}; do
        mutate "$name" >"$dir/check.h" && continue
        echo "$name: its text is not in msc4203.h exactly once: adapt $list"
        lost=$((lost + 1))
    done
    echo "mutants: $lost to be adapted"
    [ $lost -eq 0 ]
    exit
fi
chosen=${*:-$(names)}
[ -n "$chosen" ] || { echo "mutants: $list has none"; exit 1; }
# Without a fault the suites must pass, or catching one would mean nothing.
${MAKE:-make} -s build/msc4203 build/bodies || exit 1
place "$dir/none"
$CC -std=c99 -O1 -I. -c -o "$dir/msc4203.o" msc4203.c || exit 1
for suite in $(for name in $chosen; do suites_of "$name"; done | tr ' ' '\n' | sort -u); do
    $CC -std=c99 -O1 -I. -c -o "$dir/test_$suite.o" "test/test_$suite.c" &&
        $CC -o "$dir/none/suite" "$dir/test_$suite.o" "$dir/msc4203.o" &&
        (cd "$dir/none" && exec ./suite) >"$dir/$suite.log" 2>&1 </dev/null || {
        echo "mutants: $suite fails without a fault"
        tail -n 5 "$dir/$suite.log"
        exit 1
    }
done
for name in $chosen; do echo "$name"; done | xargs -P 2 -n 1 sh "$self" --try
caught=0 missed=0
for name in $chosen; do
    result=$(cat "$dir/$name/result")
    case $result in
    'caught by '*) caught=$((caught + 1)) ;;
    *) missed=$((missed + 1)) ;;
    esac
    printf '%-32s %s\n' "$name" "$result"
done
echo "mutants: $caught caught, $missed not"
[ $missed -eq 0 ]
