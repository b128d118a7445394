#!/usr/bin/env bash
# Syncs for each put as the kernel sees them: strace over all nodes of a cluster, at 1 and 64 clients.
#
#   scripts/bench/syncs.sh
#
# A cross-check of the nodes' own counters: it also counts the syncs of flushes and of metadata. Traced nodes are
# slow, so that nothing but the number for each put means anything here.
source "$(dirname "$0")/systems.sh"

seconds=${BENCH_SECONDS:-10}

traced() { # traced SYSTEM PIDS CLIENTS
    local tracer line calls
    # shellcheck disable=SC2046
    strace -f -c -o "$work/strace" -e trace=fsync,fdatasync,sync_file_range,syncfs $(printf -- '-p %s ' ${2//,/ }) \
        2>/dev/null &
    tracer=$!
    sleep 1
    line=$(run "$1" --keys 10000 --distribution uniform --protocol grpc --route leader --mix update=100 --clients "$3" \
        --warmup 0s --duration "${seconds}s" 2>/dev/null)
    kill -INT "$tracer" 2>/dev/null || true
    wait "$tracer" 2>/dev/null || true
    calls=$(awk '$NF ~ /^f(data)?sync$/ { sum += $4 } END { print sum + 0 }' "$work/strace")
    jq -c --argjson calls "$calls" '{part: "syncs", target, clients, operations, syncCalls: $calls,
        syncCallsPerPut: ($calls * 1000 / ([.operations, 1] | max) | round / 1000),
        logSyncsPerPut: .servers.logSyncsPerWrite, entriesPerSync: .servers.logEntriesPerSync}' <<< "$line"
}

if ! strace -o /dev/null true 2>/dev/null; then
    echo '{"part":"syncs","skipped":"strace is not allowed here"}'
    exit 0
fi
start_larder 16
start_etcd
for system in larder etcd; do
    run "$system" --keys 10000 --protocol grpc --mix read=100 --load --clients 64 --warmup 0s --duration 1s \
        > "$work/load" 2>/dev/null
    for count in 1 64; do
        if [ "$system" = larder ]; then pids=$larder_pids; else pids=$(etcd_pid_list); fi
        traced "$system" "$pids" "$count"
    done
done
