#!/bin/sh
# run.sh - what `make interop` runs: installs real peers at pinned versions under build/interop and
# exchanges real messages with them on loopback. A peer that can't be installed is a failure.
#
#   PEER=NAME sh test/interop/run.sh      one of the peers below alone
#
# To be run in the project's root. Environment: B (build folder); PYTHON, GO, NODE, NPM and CARGO
# name programs. What programs and peers said is in build/interop/run, what the tests said in
# build/interop/log. Ends with `interop: N passed, N failed`.
set -u
B=${B:-build}
python=${PYTHON:-python3} go=${GO:-go} npm=${NPM:-npm} cargo=${CARGO:-cargo}
root=$PWD here=test/interop dir=$B/interop
all='synapse mautrix-go mautrix nio matrix-bot-sdk vector-im ruma e2ee lost metrics'
peers=${PEER:-$all}
mkdir -p "$dir/log"
rm -f "$dir"/log/*

for peer in $peers; do
    case " $all " in
    *" $peer "*) ;;
    *) echo "interop: no peer $peer; there are: $all" >&2; exit 2 ;;
    esac
done

# install NAME COMMAND...: runs it, keeps what it says, and tells when it failed.
install() {
    name=$1
    shift
    "$@" >"$dir/log/install-$name" 2>&1 && return
    tail -n 20 "$dir/log/install-$name"
    echo "interop: $name can't be installed"
    return 1
}

# Once, as long as what is asked for stays the same.
install_python() {
    cmp -s $here/requirements.txt "$dir/python/requirements.txt" && return
    rm -rf "$dir/python"
    "$python" -m venv "$dir/python" &&
        "$dir/python/bin/pip" install --disable-pip-version-check --no-deps \
            -r $here/requirements.txt &&
        cp $here/requirements.txt "$dir/python/"
}

# --ignore-scripts: the crypto binding downloads a binary; nothing here uses it.
install_node() {
    cmp -s $here/node/package-lock.json "$dir/node/package-lock.json" &&
        [ -d "$dir/node/node_modules" ] || {
        mkdir -p "$dir/node"
        cp $here/node/package.json $here/node/package-lock.json "$dir/node/"
        (cd "$dir/node" && "$npm" ci --ignore-scripts --no-audit --no-fund)
    }
}

install_go() {
    (cd $here/go && "$go" build -o "$root/$dir/mautrix-go" .)
}

install_ruma() {
    "$cargo" build --locked --manifest-path $here/ruma/Cargo.toml --target-dir "$dir/ruma"
}

need() { # KIND PEER...: is one of these peers asked for, and not installed yet?
    kind=$1
    shift
    for peer in "$@"; do
        case " $peers " in *" $peer "*) return 0 ;; esac
    done
    return 1
}

# ruma takes longest to build: beside the rest.
need ruma ruma && { install ruma install_ruma; echo $? >"$dir/log/ruma.status"; } &
python_ok=0 node_ok=0 go_ok=0
install python install_python || python_ok=1
need node matrix-bot-sdk vector-im && { install node install_node || node_ok=1; }
need go mautrix-go && { install go install_go || go_ok=1; }

passed=0 failed=0
for peer in $peers; do
    ok=$python_ok
    case $peer in
    matrix-bot-sdk | vector-im) [ $node_ok -eq 0 ] || ok=1 ;;
    mautrix-go) [ $go_ok -eq 0 ] || ok=1 ;;
    ruma) wait; [ "$(cat "$dir/log/ruma.status")" = 0 ] || ok=1 ;;
    esac
    case $peer in
    synapse | nio | e2ee | lost | metrics) tests=$here/test_$peer.py ;;
    *) tests=$here/test_receivers.py ;;
    esac
    log=$dir/log/$peer
    if [ $ok -ne 0 ]; then
        echo "interop: $peer: not installed" | tee "$log"
        good=0 bad=1
    else
        echo "interop: $peer"
        # A time limit for each peer: one that hangs must not take the others with it.
        INTEROP_PEER=$peer timeout -k 10 300 "$dir/python/bin/python" -B -m pytest -q \
            -p no:cacheprovider -o console_output_style=classic --tb=short "$tests" >"$log" 2>&1
        status=$?
        sum=$(tail -n 1 "$log")
        good=$(echo "$sum" | sed -n 's/.*\b\([0-9][0-9]*\) passed.*/\1/p')
        bad=$(echo "$sum" | sed -n 's/.*\b\([0-9][0-9]*\) failed.*/\1/p')
        errors=$(echo "$sum" | sed -n 's/.*\b\([0-9][0-9]*\) error.*/\1/p')
        good=${good:-0} bad=$((${bad:-0} + ${errors:-0}))
        # It ended otherwise, or ran nothing.
        [ $status -eq 0 ] && [ "$good" -gt 0 ] || [ $bad -gt 0 ] || bad=1
        [ $bad -eq 0 ] || tail -n 60 "$log"
    fi
    echo "interop: $peer: $good passed, $bad failed"
    passed=$((passed + good)) failed=$((failed + bad))
done
[ ! -f "$dir/lost.md" ] || case " $peers " in *' lost '*) cat "$dir/lost.md" ;; esac
echo "interop: $passed passed, $failed failed"
[ $failed -eq 0 ]
