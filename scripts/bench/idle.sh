#!/usr/bin/env bash
# What a cluster costs that nobody asks, with many shards: CPU share, memory, messages.
#
#   scripts/bench/idle.sh         BENCH_SHARDS (256), BENCH_SECONDS (10)
source "$(dirname "$0")/systems.sh"

shards=${BENCH_SHARDS:-256}
seconds=${BENCH_SECONDS:-10}

start_larder "$shards"
# Leaders have been elected; what follows that, such as the first snapshots, is no idle cost.
sleep 15
before=()
for pid in ${larder_pids//,/ }; do before+=("$(ticks "$pid")"); done
sleep "$seconds"
nodes=()
index=0
for pid in ${larder_pids//,/ }; do
    spent=$(($(ticks "$pid") - before[index]))
    index=$((index + 1))
    nodes+=("{\"pid\":$pid,\"cpuShare\":$(awk "BEGIN { printf \"%.4f\", $spent / 100 / $seconds }"),\"memoryBytes\":$(resident "$pid")}")
done
# Messages are writes to sockets; a node traced is slower, but an idle one has time.
messages=null
if strace -o /dev/null true 2>/dev/null; then
    # shellcheck disable=SC2046
    timeout -s INT "$seconds" strace -f -c -o "$work/strace" -e trace=sendto,sendmsg,writev \
        $(printf -- '-p %s ' ${larder_pids//,/ }) 2>/dev/null || true
    messages=$(awk -v s="$seconds" '$NF ~ /^(sendto|sendmsg|writev)$/ { sum += $4 } END { printf "%.1f", sum / s }' "$work/strace")
fi
echo "{\"part\":\"idle\",\"shards\":$shards,\"seconds\":$seconds,\"socketWritesPerSecond\":$messages,\"nodes\":[$(IFS=,; echo "${nodes[*]}")]}"
