#!/usr/bin/env bash
# Puts and gets of three nodes that seal their disks, and of the same three that do not: what encryption at rest costs.
#
#   scripts/bench/seal.sh         prints lines of JSON; see scripts/bench.sh for the variables
#
# Turn by turn, each on empty directories. `cached` gets find their documents in memory; `cold` ones, with the least memory that a node
# runs with, open seals. Disk bytes are those of all data directories when the documents are loaded and the nodes have stopped.
source "$(dirname "$0")/systems.sh"

rounds=${BENCH_ROUNDS:-3}
seconds=${BENCH_SECONDS:-10}
keys=${BENCH_KEYS:-50000}
clients=${BENCH_CLIENTS:-1 64 256}

head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$work/master.key"
common=(--keys "$keys" --distribution uniform --protocol grpc --route leader --warmup 1s)

for round in $(seq "$rounds"); do
    for memory in 192 24; do
        for sealed in false true; do
            if $sealed; then
                export LARDER_ENCRYPTION__MASTER_KEY=file:$work/master.key
            else
                unset LARDER_ENCRYPTION__MASTER_KEY
            fi
            export LARDER_STORAGE__MEMORY_MIB=$memory
            start_larder 16
            tagged() { # tagged: one line of JSON, with what it belongs to
                jq -c --argjson round "$round" --argjson sealed "$sealed" --argjson memory "$memory" \
                    '{part: "seal", round: $round, sealed: $sealed, reads: (if $memory > 100 then "cached" else "cold" end)} + .'
            }
            run larder "${common[@]}" --mix read=100 --load --clients 64 --duration 1s 2>/dev/null > "$work/load"
            for mix in update=100 read=100; do
                for count in $clients; do
                    run larder "${common[@]}" --mix "$mix" --clients "$count" --duration "${seconds}s" 2>/dev/null | tagged
                done
            done
            kill -TERM "$dev"
            wait "$dev" || true
            dev=
            du -sb --total "$work"/nodes/*/data | tail -1 | jq -R 'split("\t")[0] | tonumber | {mix: {disk: 1}, diskBytes: .}' | tagged
            stop_larder
            rm -rf "$work/nodes" "$work/ready"
        done
    done
done
