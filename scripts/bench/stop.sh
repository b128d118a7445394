#!/usr/bin/env bash
# Stops nodes with SIGTERM under load, lets them come back, and counts what became of the requests.
#
#   scripts/bench/stop.sh         BENCH_STOPS (6) over BENCH_PROTOCOLS ("http grpc"), BENCH_STOP_SECONDS (12, of each)
#
# A generator for each node, which asks no other: so it is known through which node a request failed. Nothing may fail
# through the nodes that stay; through the one that stops everything must be answered, or refused with effect none.
# Exit status 1 if that was not so.
source "$(dirname "$0")/systems.sh"

stops=${BENCH_STOPS:-6}
seconds=${BENCH_STOP_SECONDS:-12}
read -ra protocols <<< "${BENCH_PROTOCOLS:-http grpc}"

start_larder 16
IFS=, read -ra urls <<< "$larder_urls"
healthy() { # healthy: waits until the first node says that all is well, and leaders had time to spread
    local try
    for try in $(seq 600); do
        if curl -sf "http://127.0.0.1:$((port + 2))/admin/v1/cluster/status" | grep -q '"health":"healthy"'; then
            sleep 3
            return 0
        fi
        sleep 0.1
    done
    cat "$work/dev.log" >&2
    die "the nodes are not well again after a minute"
}
settings=(--keys 10000 --value-bytes 256 --distribution uniform --route any --warmup 0s)
run larder "${settings[@]}" --mix read=100 --load --clients 64 --duration 1s > "$work/load" 2>&1 \
    || { cat "$work/load" >&2; die "the documents were not loaded"; }

failed=0
for stop in $(seq "$stops"); do
    healthy
    protocol=${protocols[$((stop % ${#protocols[@]}))]}
    number=$(((stop - 1) % ${#urls[@]} + 1))
    generators=()
    for index in "${!urls[@]}"; do
        "$larder" bench "${urls[$index]}" --admin "$larder_admins" -o json "${settings[@]}" --mix update=50,read=50 \
            --clients 16 --protocol "$protocol" --duration "${seconds}s" > "$work/run$index" 2> "$work/bench$index.log" &
        generators+=($!)
    done
    sleep 3
    pid=$(pgrep -P "$dev" -f "/node$number/")
    began=$(date +%s%3N)
    kill -TERM "$pid"
    # larder dev starts it again as soon as it has gone.
    while kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
    took=$(($(date +%s%3N) - began))
    for generator in "${generators[@]}"; do
        wait "$generator" || { cat "$work"/bench?.log >&2; die "a generator failed"; }
    done
    line=$(jq -cs --argjson stopped "$number" --argjson took "$took" --arg protocol "$protocol" '
        # A read that nobody answered has no effect either, but was not refused.
        def lost: .effect != "none" or .code == "timeout" or .code == "connection_lost";
        def tally: {operations: (map(.operations) | add),
            refused: ([.[].errors[] | select(lost | not) | .count] | add // 0),
            unknown: ([.[].errors[] | select(lost) | .count] | add // 0),
            errors: [.[].errors[]]};
        [to_entries[] | {stops: (.key + 1 == $stopped), run: .value}]
        | {part: "stop", protocol: $protocol, node: $stopped, stopMs: $took,
           through: (map(select(.stops).run) | tally), others: (map(select(.stops | not).run) | tally)}' "$work"/run?)
    echo "$line"
    jq -e '.others.refused + .others.unknown + .through.unknown == 0' <<< "$line" > /dev/null || failed=1
done
[ "$failed" = 0 ] || die "a stop was felt"
