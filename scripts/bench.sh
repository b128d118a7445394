#!/usr/bin/env bash
# Measures three larder nodes on this machine, side by side with three members of etcd and with nginx.
#
#   scripts/bench.sh [--quick] [PART...]
#
# Parts: compare   puts and gets over gRPC against etcd, local gets over HTTP against nginx, h2load as a cross-check
#        query     queries, counts, a scan and counters over 100,000 documents, and the same in PostgreSQL
#        rights    point reads and queries with a token and ACLs, and the same on public documents
#        live      real-time queries: from a write to its subscriber, and what 10,000 of them cost writers
#        feeds     events a second of a change feed from a cold log, from a write to its subscriber, and idle subscribers
#        syncs     fsync and fdatasync calls for each put, as strace counts them
#        failover  kill -9 of the leader until writes are back
#        stop      SIGTERM to one node after the other: what became of the requests
#        idle      CPU, memory and messages with 256 shards and no client
#        seal      puts and gets with and without encryption at rest
#        overload  far too many clients with 512 MiB for each node
# Without any named: all of them. --quick is for a look at whether it all works; its figures say little.
#
# Raw lines of JSON and the table go to target/bench/ (BENCH_OUT: another folder), and the table to standard output.
# Sizes: BENCH_ROUNDS (3), BENCH_SECONDS (10, of each run), BENCH_CLIENTS ("1 64 256"), BENCH_ROUTES ("leader any"),
# BENCH_KEYS (50000), BENCH_FILMS (100000), BENCH_RIGHTS (100000), BENCH_QUERY_CLIENTS ("1 64"), BENCH_EVENTS (200000), BENCH_FEED_WRITES (2000),
# BENCH_KILLS (50), BENCH_STOPS (6), BENCH_SHARDS (256),
# BENCH_OVERLOAD_SECONDS (60), BENCH_OVERLOAD_CLIENTS (4000);
# BENCH_DIR: where data lies, to choose the disk; BENCH_PORT: the first port (7500). LARDER_BIN: the binary.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
parts=()
for argument in "$@"; do
    case $argument in
        --quick)
            export BENCH_ROUNDS=${BENCH_ROUNDS:-1} BENCH_SECONDS=${BENCH_SECONDS:-2} BENCH_ROUTES=${BENCH_ROUTES:-leader}
            export BENCH_FILMS=${BENCH_FILMS:-5000} BENCH_RIGHTS=${BENCH_RIGHTS:-5000} BENCH_EVENTS=${BENCH_EVENTS:-5000}
            export BENCH_FEED_WRITES=${BENCH_FEED_WRITES:-1000} BENCH_SUBSCRIBERS=${BENCH_SUBSCRIBERS:-500}
            export BENCH_LIVE_RATE=${BENCH_LIVE_RATE:-200} BENCH_LIVE_SECONDS=${BENCH_LIVE_SECONDS:-3} BENCH_LIVE_QUERIES=${BENCH_LIVE_QUERIES:-500}
            export BENCH_KEYS=${BENCH_KEYS:-5000} BENCH_KILLS=${BENCH_KILLS:-3} BENCH_CLIENTS=${BENCH_CLIENTS:-1 64}
            export BENCH_OVERLOAD_SECONDS=${BENCH_OVERLOAD_SECONDS:-10} BENCH_STOPS=${BENCH_STOPS:-2}
            ;;
        compare | query | rights | feeds | live | syncs | failover | stop | idle | seal | overload) parts+=("$argument") ;;
        *)
            echo "usage: scripts/bench.sh [--quick] [compare|query|rights|feeds|live|syncs|failover|stop|idle|seal|overload]..." >&2
            exit 2
            ;;
    esac
done
[ ${#parts[@]} -gt 0 ] || parts=(compare query rights feeds live syncs failover stop idle seal overload)

out=${BENCH_OUT:-$root/target/bench}
mkdir -p "$out"
raw=$out/bench.jsonl
: > "$raw"
failed=0
for part in "${parts[@]}"; do
    echo "bench: $part" >&2
    "$root/scripts/bench/$part.sh" >> "$raw" || { echo "bench: $part failed" >&2; failed=1; }
done
jq -rsf "$root/scripts/bench/table.jq" "$raw" | tee "$out/table.md"
echo "bench: raw figures in $raw" >&2
exit $failed
