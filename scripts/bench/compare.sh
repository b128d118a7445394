#!/usr/bin/env bash
# Puts and gets of larder and of etcd, turn by turn on one machine; local gets against a file served by nginx.
#
#   scripts/bench/compare.sh      prints lines of JSON; see scripts/bench.sh for the variables
#
# Both clusters run all the time; the one that is not asked is idle. Both are asked by the same generator with the
# same keys and values over the same number of connections to each node.
source "$(dirname "$0")/systems.sh"

rounds=${BENCH_ROUNDS:-3}
seconds=${BENCH_SECONDS:-10}
keys=${BENCH_KEYS:-50000}
clients=${BENCH_CLIENTS:-1 64 256}
routes=${BENCH_ROUTES:-leader any}

start_larder 16
start_etcd
common=(--keys "$keys" --distribution uniform --protocol grpc)
say "loading $keys documents into each"
for system in larder etcd; do
    run "$system" "${common[@]}" --mix read=100 --load --clients 64 --warmup 0s --duration 1s 2>/dev/null > "$work/load"
done

# tagged PART ROUND FILTER: one line of JSON, with what it belongs to
tagged() { jq -c --arg part "$1" --argjson round "$2" "{part: \$part, round: \$round} + ($3)"; }

for round in $(seq "$rounds"); do
    for mix in update=100 read=100; do
        for route in $routes; do
            for count in $clients; do
                for system in larder etcd; do
                    run "$system" "${common[@]}" --mix "$mix" --route "$route" --clients "$count" --warmup 1s \
                        --duration "${seconds}s" 2>/dev/null | tagged compare "$round" .
                done
            done
        done
    done
done

# --- local gets over HTTP and a file of the same bytes ----------------------------------------------------------

document="http://127.0.0.1:$port/v1/db/Bench/user000000000000"
local_read=(-H 'larder-consistency: local')
curl -sf "${local_read[@]}" "$document" > "$work/file"
start_nginx "$work/file"
# wrk_line SYSTEM CLIENTS URL HEADER...
wrk_line() {
    local system=$1 count=$2 url=$3
    shift 3
    wrk -t1 -c"$count" -d"${seconds}s" --latency "$@" "$url" > "$work/wrk"
    awk -v name="$system" -v clients="$count" '
        function us(text) { n = text + 0; return text ~ /us$/ ? n : text ~ /ms$/ ? n * 1000 : n * 1000000 }
        $1 == "50%" { p50 = us($2) } $1 == "99%" { p99 = us($2) } $1 == "Requests/sec:" { rate = $2 }
        /Non-2xx/ { failed = $NF } /Socket errors/ { gsub(",", ""); failed += $4 + $6 + $8 + $10 }
        END { printf "{\"target\":\"%s\",\"clients\":%d,\"throughput\":%s,\"p50\":%d,\"p99\":%d,\"failed\":%d}\n",
            name, clients, rate, p50, p99, failed }' "$work/wrk"
}
for round in $(seq "$rounds"); do
    for count in $clients; do
        wrk_line larder "$count" "$document" "${local_read[@]}" | tagged static "$round" .
        wrk_line nginx "$count" "$nginx_url" "${local_read[@]}" | tagged static "$round" .
    done
done

# --- cross-check: another generator, one key --------------------------------------------------------------------

byte() { printf "\\x$(printf %02x "$1")"; }
varint() {
    local rest=$1
    while [ "$rest" -gt 127 ]; do byte $((rest % 128 + 128)); rest=$((rest / 128)); done
    byte "$rest"
}
# field NUMBER TEXT: of a protobuf message
field() { byte $(($1 * 8 + 2)); varint "${#2}"; printf %s "$2"; }
# framed FILE: as gRPC sends it
framed() {
    local size
    size=$(stat -c %s "$1")
    byte 0; byte $((size >> 24)); byte $((size >> 16 & 255)); byte $((size >> 8 & 255)); byte $((size & 255))
    cat "$1"
}
value="{\"value\":\"$(head -c 4096 /dev/urandom | base64 -w0 | tr -d '+/=' | head -c 1024)\"}"
key=user000000000000
{ field 2 Bench; field 3 "$key"; } > "$work/get"
{ field 2 Bench; field 3 "$key"; field 4 "$value"; } > "$work/put"
framed "$work/get" > "$work/larder-get"
framed "$work/put" > "$work/larder-put"
field 1 "Bench/$key" > "$work/get"
{ field 1 "Bench/$key"; field 2 "$value"; } > "$work/put"
framed "$work/get" > "$work/etcd-get"
framed "$work/put" > "$work/etcd-put"

# h2load_line SYSTEM OPERATION ORIGIN METHOD: 64 clients over 2 connections. It does not look at gRPC's own status,
# but a call that failed has an answer without a message.
h2load_line() {
    h2load -t1 -c2 -m32 -D"$seconds" --warm-up-time=1 -d "$work/$1-$2" -H 'content-type: application/grpc' \
        -H 'te: trailers' "$3/$4" > "$work/h2load"
    awk -v name="$1" -v operation="$2" -v node="$3" '
        /^finished in/ { rate = $4 } /^requests:/ { done = $6; failed = $10 + $12 + $14 }
        /^status codes:/ { failed += $5 + $7 + $9 } /^traffic:/ { gsub(/[()]/, ""); bytes = $(NF - 1) }
        END {
            if (bytes < 5 * done) failed = done
            printf "{\"target\":\"%s\",\"operation\":\"%s\",\"node\":\"%s\",\"throughput\":%s,\"bytesPerAnswer\":%d,\"failed\":%d}\n",
                name, operation, node, rate + 0, done ? bytes / done : 0, failed
        }' "$work/h2load"
}
for round in $(seq "$rounds"); do
    for number in 0 1 2; do
        node=http://127.0.0.1:$((port + 10 * number))
        h2load_line larder put "$node" larder.v1.Documents/Put | tagged h2load "$round" .
        h2load_line larder get "$node" larder.v1.Documents/Get | tagged h2load "$round" .
        node=http://127.0.0.1:$((port + 101 + number))
        h2load_line etcd put "$node" etcdserverpb.KV/Put | tagged h2load "$round" .
        h2load_line etcd get "$node" etcdserverpb.KV/Range | tagged h2load "$round" .
    done
done
