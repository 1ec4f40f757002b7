#!/bin/sh
# run.sh - runs one test program and keeps what it says, or adds up what several have said.
#
#   sh test/run.sh one DIR NAME COMMAND...   leaves DIR/NAME.log and DIR/NAME.status
#   sh test/run.sh sum DIR NAME...           prints the logs and `N passed, N failed`
#
# A program that was not built, crashed, ended with an error without counting one, or counted
# nothing at all is one more failure.
set -u

one() {
    dir=$1 name=$2
    shift 2
    "$@" >"$dir/$name.log" 2>&1 </dev/null
    echo $? >"$dir/$name.status"
}

sum() {
    dir=$1
    shift
    for name in "$@"; do
        if [ -f "$dir/$name.status" ]; then
            cat "$dir/$name.log"
            echo "status $name $(cat "$dir/$name.status")"
        else
            echo "status $name none"
        fi
    done | awk '
        /^[a-z0-9_]+: [0-9]+ passed, [0-9]+ failed$/ { passed += $2; failed += $4
                                                       ok += $2; bad += $4 }
        /^status [a-z0-9_]+ ([0-9]+|none)$/ {
            name = $2; status = $3
            if (status == "none") why = "did not build"
            else if (status > 128) why = "killed by signal " status - 128
            else if (status != 0 && !bad) why = "ended with status " status
            else if (!ok && !bad) why = "ran no test"
            else why = ""
            if (why) { printf "%s: %s\n", name, why; failed++ }
            ok = bad = 0
            next
        }
        { print }
        END { printf "%.0f passed, %.0f failed\n", passed, failed; exit failed != 0 }'
}

mode=$1
shift
case $mode in
one) one "$@" ;;
sum) sum "$@" ;;
*) exit 2 ;;
esac
