#!/bin/sh
# seeds.sh - makes the seed corpora from the captured bodies in test/data and a few written by hand:
# build/fuzz/corpus/fuzz_reader, .../fuzz_roundtrip, .../fuzz_json. Each seed is a body behind the
# choice bytes that its target wants; which, changes with the seed's name. Those of the log's
# targets, .../fuzz_log_ops and .../fuzz_log_open, and of .../fuzz_delivery are chance; those of
# .../fuzz_receiver are the transactions, and heads of requests; .../fuzz_http has its own.
#
#   sh fuzz/seeds.sh [DIR]      DIR: the folder for the corpora (default build/fuzz/corpus)
#
# To be run in the project's root. Makes the same files each time.
set -eu
dir=${1:-build/fuzz/corpus}
for target in fuzz_reader fuzz_roundtrip fuzz_json fuzz_log_ops fuzz_log_open fuzz_receiver \
    fuzz_http fuzz_delivery; do
    rm -rf "${dir:?}/$target"
    mkdir -p "$dir/$target"
done

# bytes N...: writes bytes.
bytes() {
    # shellcheck disable=SC2059
    printf "$(printf '\\%03o' "$@")"
}

# seed NAME SHAPE FILE: one body in all three corpora.
seed() {
    number=$(printf '%s' "$1" | cksum)
    number=$((${number%% *} % 997))
    case $((number % 4)) in
    0) chunk=1 ;;
    1) chunk=$((number % 60 + 2)) ;;
    2) chunk=64 ;;
    *) chunk=$((128 + number % 128)) ;;
    esac
    choice=$(($2 + (number % 2) * 8 + (number % 3) * 8))
    [ "$2" -eq 0 ] || choice=$((choice + (number % 5 == 0) * 4))
    kinds=$((number % 3 == 0 ? 255 : number % 3 == 1 ? 1 : number % 255))
    {
        bytes "$choice" "$kinds" 1 "$chunk" "$number" $((number * 7 % 256)) $((number % 4 * 64))
        cat "$3"
    } >"$dir/fuzz_reader/$1"
    # Written in the shape that it has, and now and then in another.
    out=$((number % 3 == 0 ? number / 3 % 4 : $2))
    {
        bytes $((128 + $2 * 16 + out * 4 + number % 4)) $((number * 37 % 256)) $((number % 13))
        cat "$3"
    } >"$dir/fuzz_roundtrip/$1"
    {
        bytes "$chunk" $((number % 4))
        cat "$3"
    } >"$dir/fuzz_json/$1"
    [ "$2" -ne 0 ] || { # as a request that passes: see fuzz_receiver.c
        bytes $((16 + number % 2 * 4 + number % 3 * 64)) 255 $((number % 256)) "$chunk" \
            $((number % 8)) "$kinds" 3 0
        printf 't%s' "$((number % 90 + 10))"
        cat "$3"
    } >"$dir/fuzz_receiver/$1"
}

# text NAME SHAPE: the same for a body on standard input.
text() {
    cat >"$dir/body"
    seed "$1" "$2" "$dir/body"
    rm "$dir/body"
}

# small FILE: fuzzing large files is slow, and they say nothing new.
small() {
    [ "$(wc -c <"$1")" -le 8192 ]
}

for file in test/data/synapse/transactions/*.json; do
    small "$file" || continue
    seed "txn-$(basename "$file" .json)" 0 "$file"
done
for file in test/data/synapse/sync/*.json; do
    small "$file" || continue
    seed "sync-$(basename "$file" .json)" 3 "$file"
done
for file in test/data/synapse/requests/*.req; do
    small "$file" || continue
    name=$(basename "$file" .req)
    seed "send-$name" 1 "$file"
    { # the same as an EDU, with its other keys before and behind the messages
        printf '{"sender":"@a:b.example","type":"m.dummy",'
        tail -c +2 "$file"
    } | text "edu-$name" 2
    case $(tail -c 1 "$file") in
    '}') head -c "$(($(wc -c <"$file") - 1))" "$file" |
        { cat; printf ',"message_id":"x\\u0031","type":"t","sender":"@a:b.example"}'; } |
        text "late-$name" 2 ;;
    esac
done

# What the captured bodies do not have.
text spellings 0 <<'T'
{"to_device":[],"de.sorunome.msc2409.to_device":[{"to_user_id":"@u:b","to_device_id":"D",
"type":"t","sender":"@a:b","content":{}}],"ephemeral":null,"de.sorunome.msc2409.ephemeral":
[{"type":"m.typing"}],"device_lists":{"changed":["@u:b"],"left":["@\u006c:b"]},
"org.matrix.msc3202.device_lists":{"changed":["@x:b"]},"device_one_time_keys_count":{},
"org.matrix.msc3202.device_one_time_key_counts":{"@u:b":{"D":{"signed_curve25519":50}}},
"org.matrix.msc3202.device_one_time_keys_count":{"@u:b":{"D":{"signed_curve25519":50}}},
"device_unused_fallback_key_types":{"@u:b":{"D":["signed_curve25519"],"E":[]}},"events":[]}
T
text unusable 0 <<'T'
{"events":[null,1,{}],"to_device":[null,[],"x",{"type":"t"},{"content":[],"type":"t",
"sender":"s","to_user_id":"u","to_device_id":"d"},{"content":{},"type":1,"sender":"s",
"to_user_id":"u","to_device_id":"d"},{"content":{},"typ\u0065":"t","type":"u","sender":"s",
"to_user_id":"u","to_device_id":"d"},{"content":{"n":1e400,"s":"\ud800"},"type":"t",
"sender":"s","to_user_id":"u","to_device_id":"\udc00"},{"content":{"n":-1.7976931348623158e308,
"m":179769313486231580e291,"s":"\ud83d\ude00"},"type":"t","sender":"s","to_user_id":"u",
"to_device_id":"d"}]}
T
text unusable-send 1 <<'T'
{"messages":{"@a:b":{"D":[],"D":{},"\u0044":null,"*":{}},"@c:d":3,"\ud800":{"E":{}},"":{"":{}}}}
T
text unusable-edu 2 <<'T'
{"messages":{"@a:b":{"D":{}}},"sender":1,"sender":"@a:b","type":"\udead","type":"t",
"message_id":null,"message_id":"m","messages":{"@x:y":{"E":{}}}}
T
text sync 3 <<'T'
{"device_lists":{"changed":[]},"next_batch":"s1_\u0032","to_device":{"events":[{"type":"t",
"sender":"@a:b","content":{"k":[1,2.5e-3,true,false,null,"\\\"\/\b\f\n\r\t"]}},{"content":{}}]}}
T
text numbers 3 <<'T'
[0,-0,1.5,-1e5,1E+5,1e-5,0.1e1,1.7976931348623158e308,17976931348623157e292,"é€😀",[],{},[[]]]
T
text pairs 3 <<'T'
{"next_batch":"\ud83d\ude00\uDBFF\uDFFF\u00e9\u20AC","to_device":{"events":[{"type":"\ud800\udc00",
"sender":"\b\f\n\r\t\/\\\"","content":{}}]}}
T
# Sequences that are just beyond what UTF-8 has, each a seed of its own.
for sequence in '\301\277' '\340\237\277' '\355\240\200' '\360\217\277\277' \
    '\364\220\200\200' '\200'; do
    # shellcheck disable=SC2059
    { printf '{"next_batch":"' && printf "$sequence" && printf '"}'; } |
        text "utf8-$(printf '%s' "$sequence" | tr -d '\\')" 3
done

# A few levels too many, beside the items and in a content.
nest() { # LEVELS INNER
    awk -v levels="$1" -v inner="$2" 'BEGIN {
        for (i = 0; i < levels; i++) { before = before "["; behind = behind "]" }
        printf "%s%s%s", before, inner, behind
    }'
}
printf '{"x":%s,"to_device":[{}]}' "$(nest 1026 '"]"')" | text deep-beside 0
printf '{"messages":{"u":{"d":{"k":%s},"e":{}}}}' "$(nest 1021 1)" | text deep-content 1
nest 1024 0 | text deep-enough 3
nest 1025 0 | text deep-too 3

# Items made byte by byte (see make_item in fuzz_roundtrip.c): for each shape messages to one user,
# an id, and in a transaction one item of each kind.
item() { # KIND STRING...: a string is its text, `-` for none, or `=` for that of the item before
    bytes "$1"
    shift
    for string in "$@"; do
        case $string in
        -) bytes 191 ;;
        =) bytes 192 ;;
        *) bytes "${#string}" && printf '%s' "$string" ;;
        esac
    done
}
for shape in 0 1 2 3; do
    {
        bytes $((shape * 4 + 2)) 255 255
        item 0 @a t @u D - && bytes 1
        item 0 = = = E - && bytes 8 200 3
        item 0 = = = F - && bytes 5 3 && printf '"x"'
        item 0 = = = G - && bytes 7 1 && printf '}'
        case $shape in
        0) for kind in 1 2 3 4 5 6; do
            item "$kind" - - @u D - && bytes $((1 + (kind == 6)))
        done ;;
        2) item 7 - - - - idm && bytes 0 ;;
        3) item 8 - - - - idn && bytes 0 ;;
        esac
    } >"$dir/fuzz_roundtrip/made-$shape"
    for levels in '254 2' '254 3' '255 0' '255 1'; do # around the deepest content there may be
        {
            bytes $((shape * 4)) 255 255
            item 0 @a t @u D - && bytes 8 $levels
        } >"$dir/fuzz_roundtrip/deep-$shape-${levels#* }"
    done
done

# So many bytes of chance, for a seed: a simple generator, whose numbers every awk has exactly.
chance() { # SEED BYTES
    # shellcheck disable=SC2046
    bytes $(awk -v x="$1" -v n="$2" 'BEGIN {
        for (x = x * 7919 + 1; n > 0; n--) {
            x = (x * 16807) % 2147483647
            print int(x / 256) % 256
        }
    }')
}

# Operations on a log (see fuzz_log_ops.c): with a storage that does not fail (0, in memory 4), that
# loses power (1), that fails once (2), that stays failed (3); large messages (16), a device that
# never takes any (8).
for number in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    way=$((number % 8 == 7 ? 12 : number % 8 == 6 ? 1 : number % 8 + number % 2 * 16))
    {
        bytes "$way" $((number * 5 % 24)) $((number * 37 % 256)) $((number * 11 % 64))
        chance "$number" $((300 + number * 97))
    } >"$dir/fuzz_log_ops/$number"
done

# Logs (see fuzz_log_open.c): patched and worked with, in memory (16) or behind functions; with
# FUZZ_FORGED, the checksums left alone or made right (8).
for number in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23; do
    {
        bytes $((1 + number % 4 * 8)) $((number % 8)) $((number % 3 * 4)) 0
        chance "$number" $((40 + number * 9))
    } >"$dir/fuzz_log_open/$number"
done
{ bytes 0 0 0 0 && chance 2 16 && printf 'msc4203\0' && chance 1 2000; } \
    >"$dir/fuzz_log_open/region"
# Of a whole log there is more than the first sector: here each segment has 1,536 bytes.
for number in 0 1 2 3; do
    { # lengths of segment and sector, messages, devices, requests, openings, bytes of a message
        bytes $((8 + number % 2 * 16)) $((number % 4)) $((60 + number * 40)) 0 && chance 3 32 &&
            bytes 96 0 0 0 $((number % 2 * 16)) $((number / 2 * 2)) 0 0 64 0 0 0 8 0 0 0 16 0 0 0 \
                4 0 0 0 0 1 0 0 && chance "$number" 900
    } >"$dir/fuzz_log_open/header-$number"
done
{ bytes 17 3 0 0 && chance 2 300; } >"$dir/fuzz_log_open/whole"

# Requests to a receiver (see fuzz_receiver.c): tokens in the header and the query, paths, a ping.
request() { # NAME CHOICE TARGET HEADER
    {
        bytes "$2" 255 0 3 1 255 "${#3}" "${#4}"
        printf '%s%s{"to_device":[]}' "$3" "$4"
    } >"$dir/fuzz_receiver/$1"
}
request query 0 't?a=b&access_token=as%2fk%252B+n' ''
request query-wrong 4 't%20x?access_token=as/k&access_token=as/k%252B+n' ''
request both 16 't?access_token=as/k%252B+n' ''
request header 32 't' 'as/k%2B+n'
request header-wrong 32 't' 'as/k%2B+m'
request header-raw 48 't' 'bEARER   as/k%2B+n'
request header-none 48 't' 'Basic as/k%2B+n'
request ping 29 '' ''
request ping-method 28 '?x' ''
request path 24 '/_matrix%2Fapp/v1/transactions/t' ''
request path-escaped 24 '/_m%61trix/app/v1/tr%41nsactions/t' ''
request path-more 16 't/u' ''
request path-empty 16 '' ''
request method 19 't' ''

# What example/http.h takes apart (see fuzz_http.c), on standard input.
http() { # NAME LOOK_AT CUT SEED HOW
    { bytes "$2" "$3" "$4" "$5" && cat; } >"$dir/fuzz_http/$1"
}
printf 'PUT /t?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nabcdeG' |
    http length 0 1 1 0
printf 'POST / HTTP/1.0\nAuthorization: \tBearer x \nConnection: a, close\n\n' | http lines 0 2 1 0
printf 'PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n%s\r\n\r\n' \
    "$(printf '3;a\r\nabc\r\n0\r\nb: c')" |
    http chunked 0 200 3 0
printf 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}' | http answer 0 1 1 1
printf 'HTTP/1.0 502 \r\n\r\nall of it' | http all 0 3 1 1
printf 'HTTP/1.1 204\r\nconnection: keep-alive\r\n\r\n' | http empty 0 1 1 1
printf 'GET /\001 HTTP/1.1\r\n\rx\r\n\r\n' | http wrong 0 1 1 0
printf 'fFfFfFfFfFfFfFf\r\nabc' | http size-large 1 1 1 1
printf '1 \na\nA;b="c"\r\n0123456789\r\n00\n\n' | http chunks 1 150 9 1
printf 'abcdefgh' | http body-length 1 3 1 22
printf 'some text of which chunks are made, %070d' 5 | http made 2 131 77 0
printf 'a%%2fb%%E2%%82%%acd+e%%4' | http decode 3 0 0 1
printf 'a=1&access_token=x%%20y&since=&=e&since=2' | http parameter 4 0 0 0
printf 'localhost:8080' | http split 5 0 0 31
printf '[::1]:65535' | http split-six 5 0 0 6
printf '::65536' | http split-wrong 5 0 0 20

# Deliveries (see fuzz_delivery.c).
for number in 0 1 2 3 4 5 6 7 8 9 10 11; do
    {
        bytes $((number % 6)) $((number * 53 % 256)) $((number % 4)) $((number % 8))
        chance "$((number + 70))" $((200 + number * 131))
    } >"$dir/fuzz_delivery/$number"
done
