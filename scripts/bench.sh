#!/usr/bin/env bash
# Measures a three-node cluster on this machine and prints one line of JSON per run, and per question about nodes.
#
#   scripts/bench.sh [SECONDS]      seconds per run, 30 unless told otherwise; BENCH_PORT sets the first port (7500)
#
# Asks: replicated puts and linearizable gets of 1 KiB documents at 1, 64 and 256 clients, over HTTP and gRPC, with
# requests to any node and to the shard's leader; memory of each node idle and after the run; disk per document.
set -euo pipefail

seconds=${1:-30}
port=${BENCH_PORT:-7500}
keys=${BENCH_KEYS:-100000}
root=$(cd "$(dirname "$0")/.." && pwd)
larder=${LARDER_BIN:-${CARGO_TARGET_DIR:-$root/target}/release/larder}
[ -x "$larder" ] || { echo "no $larder: run make build" >&2; exit 1; }

data=$(mktemp -d)
"$larder" dev --data "$data/nodes" --port "$port" --print-ready-json > "$data/ready" &
dev=$!
trap 'kill -TERM $dev 2>/dev/null || true; wait $dev 2>/dev/null || true; rm -rf "$data"' EXIT
until [ -s "$data/ready" ]; do
    kill -0 "$dev" 2>/dev/null || { echo "the cluster did not start" >&2; exit 1; }
    sleep 0.2
done
pids=$(grep -o '"pid":[0-9]*' "$data/ready" | cut -d: -f2 | paste -sd,)

# One line: {"question":...,"nodes":[...]}
memory() {
    local parts=()
    for pid in ${pids//,/ }; do
        parts+=("$(awk -v pid="$pid" '/^VmRSS/ {rss=$2*1024} /^VmHWM/ {peak=$2*1024}
            END {printf "{\"pid\":%d,\"memoryBytes\":%d,\"memoryPeakBytes\":%d}", pid, rss, peak}' "/proc/$pid/status")")
    done
    (IFS=,; echo "{\"question\":\"$1\",\"nodes\":[${parts[*]}]}")
}
disk() { du -sb "$data"/nodes/node*/data | awk '{sum += $1} END {print sum}'; }
bench() {
    "$larder" bench --admin "http://127.0.0.1:$((port + 2))" --keys "$keys" --duration "${seconds}s" --pid "$pids" \
        --distribution uniform -o json "$@"
}

sleep 5
memory idle
before=$(disk)
# Loads the documents; a run of one second is of no interest.
"$larder" bench --admin "http://127.0.0.1:$((port + 2))" --keys "$keys" --load --mix read=100 --warmup 0s --duration 1s \
    -o json > /dev/null
sleep 5
echo "{\"question\":\"disk\",\"documents\":$keys,\"bytesOnThreeNodes\":$(($(disk) - before))}"
for protocol in http grpc; do
    for route in any leader; do
        for mix in update=100 read=100; do
            bench --protocol "$protocol" --route "$route" --mix "$mix" --clients 1,64,256
        done
    done
done
memory "after the run"
