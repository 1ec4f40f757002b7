# check.sh - for the checks that are scripts, which set $suite and $dir and print passed and failed.
passed=0 failed=0

# check TITLE COMMAND...: the command must succeed, and what it prints is shown when it does not.
check() {
    title=$1
    shift
    if "$@" >"$dir/out" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$suite: $title: failed"
        head -n 30 "$dir/out" | sed 's/^/    /'
    fi
}

# Compiles without a word: a warning is a failure.
silent() {
    said=$("$@" 2>&1)
    status=$?
    [ -z "$said" ] || echo "$said"
    [ $status -eq 0 ] && [ -z "$said" ]
}
