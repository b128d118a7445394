#!/usr/bin/env bash
# Change feeds: events a second from a cold log over server-sent events; the time from a write to a subscriber over WebSocket while 1,000
# documents a second are written; and what subscribers cost to whom nothing is told.
#
#   scripts/bench/feeds.sh        BENCH_EVENTS (200000), BENCH_FEED_WRITES (10000), BENCH_FEED_RATE (1000), BENCH_SUBSCRIBERS (5000)
#
# Three nodes, 16 shards. Cold: the documents are imported, then one feed reads everything from the oldest event on, asked at the first
# node. Latency: ten writers at the second node, one subscriber at the first; from the time that the leader stamps on the write, before it
# proposes it, to when the subscriber has read it, in steps of the stamp's millisecond. Idle: memory and CPU of the first node.
source "$(dirname "$0")/systems.sh"

events=${BENCH_EVENTS:-200000}
writes=${BENCH_FEED_WRITES:-10000}
rate=${BENCH_FEED_RATE:-1000}
subscribers=${BENCH_SUBSCRIBERS:-5000}

export LARDER_CHANGES__FEEDS_MAX=$((subscribers + 100)) LARDER_LIMITS__WEBSOCKETS_MAX=$((subscribers + 100))
export LARDER_LIMITS__CONNECTIONS_MAX=$((subscribers + 1000)) LARDER_LIMITS__CONNECTIONS_PER_ADDRESS_MAX=$((subscribers + 1000))
ulimit -n "$(ulimit -Hn)"
start_larder 16
url=http://127.0.0.1:$port
client="$(dirname "$0")/feeds.py"
awk -v events="$events" 'BEGIN {
    for (n = 0; n < events; n++) printf "{\"id\":\"/db/Demo/e%d\",\"n\":%d,\"text\":\"%0200d\"}\n", n, n, n
}' > "$work/events.ndjson"
say "loading $events documents"
"$larder" import "$work/events.ndjson" --url "$url" --bucket Demo > /dev/null
{
    python3 "$client" cold "$url" "$events"
    say "writing $writes documents"
    python3 "$client" latency "$url" "http://127.0.0.1:$((port + 10))" "$writes" "$rate"
    say "subscribing $subscribers times"
    python3 "$client" idle "$url" "$subscribers" "${larder_pids%%,*}"
} | jq -sc '{part: "feeds"} + add'
