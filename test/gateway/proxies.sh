#!/bin/sh
# proxies.sh - `make test-proxies`: takes the configurations of nginx and Caddy out of
# example/install/proxies.md, changes their ports and certificates alone, and runs the gateway
# behind each, with TLS: sending, /sync, long polls, limits, and what must not be reached. Takes 75
# seconds.
# Environment: B (build folder), PROXIES (`nginx caddy`). The last line is
# `proxies: N passed, N failed`; a tool that is missing is a failure.
set -u
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build} PROXIES=${PROXIES:-nginx caddy}
case $B in /*) ;; *) B=$PWD/$B ;; esac
PATH=$PATH:/usr/sbin:/sbin
LIMIT=8388608 # request_bytes_max, in the page too
HELD=65       # seconds of a long poll; some proxies give up after 60 unless told

if [ "${1-}" != one ]; then
    missing=
    for tool in curl openssl python3 $PROXIES; do
        command -v "$tool" >/dev/null || missing="$missing $tool"
    done
    if [ -n "$missing" ]; then
        echo "proxies: missing, nothing was tested: apt-get install$missing"
        echo 'proxies: 0 passed, 1 failed'
        exit 1
    fi
    top=$B/proxies.$$
    mkdir -p "$top"
    for proxy in $PROXIES; do
        sh "$0" one "$proxy" "$top/$proxy" >"$top/$proxy.log" 2>&1 &
    done
    wait
    for proxy in $PROXIES; do
        cat "$top/$proxy.log"
        tail -n 1 "$top/$proxy.log" | grep -q "^$proxy: [0-9]* passed, [0-9]* failed$" ||
            echo "$proxy: 0 passed, 1 failed"
    done >"$top/log"
    cat "$top/log"
    awk '/^[a-z]+: [0-9]+ passed, [0-9]+ failed$/ { passed += $2; failed += $4 }
        END { printf "proxies: %d passed, %d failed\n", passed, failed
              exit failed != 0 || passed == 0 }' "$top/log"
    status=$?
    [ $status -ne 0 ] || rm -rf "$top"
    exit $status
fi

# ---- one proxy ----

suite=$2 dir=$3
. test/check.sh
mkdir -p "$dir/tmp"
running=
# shellcheck disable=SC2086
trap 'kill $running 2>/dev/null; wait' EXIT

port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])'
}

# wait_for TRIES COMMAND...: a tenth of a second between them.
wait_for() {
    tries=$1
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

tls=$(port) plain=$(port)
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=gw.example \
    -addext subjectAltName=DNS:gw.example -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null

# There is no `admin`: so /status is there for everyone on this machine, and the proxy with it.
cat >"$dir/gateway.conf" <<END
listen 127.0.0.1:0
server_name gw.example
store $dir/gateway.log 16M
device @alice:gw.example A TOKEN_A
device @alice:gw.example B TOKEN_B
END
"$B/gateway" "$dir/gateway.conf" >"$dir/gateway.out" 2>"$dir/gateway.err" &
gateway=$! running=$!
wait_for 50 grep -q listening "$dir/gateway.out"
behind=$(sed -n 's/^gateway: listening on 127.0.0.1://p' "$dir/gateway.out")
check 'the gateway runs' test -n "$behind"

# The page's configuration, with other ports and certificates.
awk -v start='```'"$suite" '$0 == start { on = 1; next } $0 == "```" { on = 0 } on' \
    example/install/proxies.md >"$dir/page"
check 'the page has a configuration' test -s "$dir/page"
case $suite in
nginx)
    sed "s/127\.0\.0\.1:8008/127.0.0.1:$behind/; s/listen 443/listen 127.0.0.1:$tls/
        /listen \[::\]:443/d; s|/etc/ssl/gw.example/fullchain|$dir/cert|
        s|/etc/ssl/gw.example|$dir|" "$dir/page" >"$dir/site"
    cat >"$dir/nginx.conf" <<END
$([ "$(id -u)" -ne 0 ] || echo 'user root;')
daemon off;
pid $dir/nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path $dir/tmp/body;
    proxy_temp_path $dir/tmp/proxy;
    fastcgi_temp_path $dir/tmp/fastcgi;
    uwsgi_temp_path $dir/tmp/uwsgi;
    scgi_temp_path $dir/tmp/scgi;
    include $dir/site;
}
END
    nginx -e "$dir/proxy.log" -p "$dir" -c "$dir/nginx.conf" >"$dir/proxy.out" 2>&1 &
    ;;
caddy)
    {
        printf '{\n    admin unix/%s/admin\n' "$dir"
        printf '    http_port %s\n    https_port %s\n}\n' "$plain" "$tls"
        sed "s/127\.0\.0\.1:8008/127.0.0.1:$behind/
            s|^gw.example {|&\n    bind 127.0.0.1\n    tls $dir/cert.pem $dir/key.pem|" "$dir/page"
    } >"$dir/site"
    HOME=$dir XDG_DATA_HOME=$dir XDG_CONFIG_HOME=$dir \
        caddy run --adapter caddyfile --config "$dir/site" >"$dir/proxy.out" 2>&1 &
    ;;
*) echo "proxies: $suite is unknown"; exit 1 ;;
esac
running="$running $!"

top=https://gw.example:$tls
v3=$top/_matrix/client/v3
# ask ARGUMENTS...: curl to the proxy; the body, then the status on a line.
ask() {
    curl -sS --max-time 150 --cacert "$dir/cert.pem" --resolve "gw.example:$tls:127.0.0.1" \
        -w '\n%{http_code}\n' "$@"
}
# says STATUS TEXT ARGUMENTS...: the answer has this status, and this text in its body.
says() {
    want=$1 text=$2
    shift 2
    ask "$@" >"$dir/answer" || { cat "$dir/answer"; return 1; }
    head -c 1000 "$dir/answer"
    [ "$(tail -n 1 "$dir/answer")" = "$want" ] && grep -qF -- "$text" "$dir/answer"
}
as() {
    printf 'Authorization: Bearer TOKEN_%s' "$1"
}
# message TXN DEVICE TEXT
message() {
    printf '{"messages":{"@alice:gw.example":{"%s":{"text":"%s"}}}}' "$2" "$3" >"$dir/m-$1"
}

check 'the proxy runs' wait_for 100 says 404 '' "$top/"
if [ $failed -ne 0 ]; then
    cat "$dir/proxy.out"
    echo "$suite: $passed passed, $failed failed"
    exit 1
fi

for version in --http1.1 --http2; do
    message "1$version" A "by $version"
    check "send, $version" says 200 '{}' "$version" -X PUT -H "$(as A)" \
        --data-binary "@$dir/m-1$version" "$v3/sendToDevice/a%2Fb/1$version"
    check "sync, $version" says 200 "{\"text\":\"by $version\"}" "$version" -H "$(as A)" "$v3/sync"
    check 'the type is as it was sent' grep -q '"type":"a/b"' "$dir/answer"
done
check 'without a token' says 401 M_MISSING_TOKEN "$v3/sync"

# refused ARGUMENTS...: 413, and never 200. A proxy may close the connection while a client is still
# sending; some clients then see that and not the answer: so it is tried again.
refused() {
    tries=5
    until says 413 M_TOO_LARGE "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] && [ "$(tail -n 1 "$dir/answer")" != 200 ] || return 1
    done
}

# Limits: the last byte that the gateway takes, and the first that it does not.
python3 -c "print('{\"messages\":{}' + ' ' * ($LIMIT - 15) + '}', end='')" >"$dir/most"
(cat "$dir/most" && echo) >"$dir/more"
check 'the sizes' test "$(wc -c <"$dir/most") $(wc -c <"$dir/more")" = "$LIMIT $((LIMIT + 1))"
for how in --http1.1 --http2 '--http1.1 -H Transfer-Encoding:chunked'; do
    # shellcheck disable=SC2086
    check "the largest request, $how" says 200 '{}' $how -X PUT -H "$(as A)" \
        --data-binary "@$dir/most" "$v3/sendToDevice/m.test/most"
    # shellcheck disable=SC2086
    check "a byte more, $how" refused $how -X PUT -H "$(as A)" \
        --data-binary "@$dir/more" "$v3/sendToDevice/m.test/more"
done
check 'and goes on' says 200 next_batch -H "$(as A)" "$v3/sync"

# What is not for clients. The gateway itself would tell.
check 'the gateway tells its status' sh -c "curl -sf http://127.0.0.1:$behind/status | grep queued"
for path in / /status /metrics /parked /parked/1 //status /./status /%73tatus /status? \
    /_matrix/../status /_matrix/%2e%2e/status /_matrix/..%2fstatus /_matrix//../status \
    /status/../_matrix/ /x/..%2f..%2fstatus '/_matrix/;/../status'; do
    for method in GET POST DELETE; do
        ask --path-as-is -X $method "$top$path" >"$dir/answer" 2>&1
        # shellcheck disable=SC2016
        check "$method $path is not there" sh -c 'cat "$1"
            tail -n 1 "$1" | grep -qx "40[045]" && ! grep -q "queued" "$1"' - "$dir/answer"
    done
done
ask -H 'Host: 127.0.0.1' --path-as-is "$top/status" >"$dir/answer" 2>&1
check 'nor under another name' sh -c "! grep queued '$dir/answer'"

# Long polls: one that nothing comes for, and one that gets a message at its end.
ask -H "$(as A)" "$v3/sync" >"$dir/answer"
ask -H "$(as B)" "$v3/sync" >>"$dir/answer"
since=$(sed -n 's/.*"next_batch":"\([^"]*\)".*/\1/p' "$dir/answer" | head -n 1)
ask -w '\n%{http_code} %{time_total}\n' -H "$(as A)" \
    "$v3/sync?since=$since&timeout=$((HELD * 1000))" >"$dir/nothing" 2>&1 &
nothing=$!
ask -w '\n%{http_code} %{time_total}\n' -H "$(as B)" "$v3/sync?timeout=120000" \
    >"$dir/late" 2>&1 &
late=$!
sleep 2
case $suite in # a reload must not cut them off
nginx) check 'reload' nginx -e "$dir/proxy.log" -p "$dir" -c "$dir/nginx.conf" -s reload ;;
caddy) check 'reload' env HOME="$dir" caddy reload --force --adapter caddyfile \
    --config "$dir/site" --address "unix/$dir/admin" ;;
esac
sleep $((HELD - 3))
check 'both polls are held' kill -0 $nothing $late
message late B 'at last'
sleep 1
check 'the second one still is' kill -0 $late
check 'a message comes' says 200 '{}' -X PUT -H "$(as A)" --data-binary "@$dir/m-late" \
    "$v3/sendToDevice/m.test/late"
wait $nothing $late
# took FILE TEXT LEAST MOST: it has the text, status 200, and took so many seconds.
took() {
    cat "$1"
    grep -qF "$2" "$1" && tail -n 1 "$1" |
        awk -v least="$3" -v most="$4" '{ exit !($1 == 200 && $2 >= least && $2 <= most) }'
}
check 'a poll without a message lasts' took "$dir/nothing" '"events":[]' $HELD $((HELD + 5))
check 'a message ends a poll at once' took "$dir/late" 'at last' $((HELD - 1)) $((HELD + 5))
tail -n 1 "$dir/late" | awk '{ printf "a poll was held for %.1f s, and answered\n", $2 }'

# Without the gateway; then something in its place that writes down what it gets.
kill $gateway
wait $gateway
check 'the gateway ended with status 0' test $? -eq 0
check 'without the gateway' says 502 M_UNKNOWN -H "$(as A)" "$v3/sync"
cat >"$dir/record.py" <<'END'
import socket
import sys
server = socket.create_server(('127.0.0.1', int(sys.argv[1])))
print('listening', flush=True)
connection = server.accept()[0]
got = b''
while b'\r\n\r\n' not in got:
    got += connection.recv(65536)
sys.stdout.write(got.decode())
sys.stdout.flush()
connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}')
END
python3 "$dir/record.py" "$behind" >"$dir/recorded" 2>&1 &
running="$running $!"
wait_for 50 grep -q listening "$dir/recorded"
check 'it comes back' says 200 '{}' -H 'X-Forwarded-For: 192.0.2.1' -H "$(as A)" \
    "$v3/sync?since=a%2Fb&timeout=0"
tr -d '\r' <"$dir/recorded" >"$dir/head"
check 'the path is as it was sent' \
    grep -qx 'GET /_matrix/client/v3/sync?since=a%2Fb&timeout=0 HTTP/1.1' "$dir/head"
check 'X-Forwarded-For is the client' grep -qix 'X-Forwarded-For: 127.0.0.1' "$dir/head"
check 'and not what it says' sh -c "! grep 192.0.2.1 '$dir/head'"

echo "$suite: $passed passed, $failed failed"
[ $failed -eq 0 ]
