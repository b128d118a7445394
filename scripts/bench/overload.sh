#!/usr/bin/env bash
# Many more clients than a cluster serves, with 512 MiB of memory for each node: nobody may die of it.
#
#   scripts/bench/overload.sh     BENCH_OVERLOAD_SECONDS (60; an hour says more), BENCH_OVERLOAD_CLIENTS (4000)
#
# On two cores three nodes serve as much with 256 clients as with more. 4,000 are nearly all connections that a node
# takes, since every client comes to every node in time, and more than all nodes work on at once: so some are refused.
# Each node is put into a memory cgroup of its own where one may be made, and starts in one of the same size, so that
# it chooses its budget for storage (a quarter of the limit) as a container of that size makes it, and the kernel judges:
# a node that takes more is killed. Elsewhere it is told that budget, and its resident memory, sampled each second, is
# judged. In a group that figure may be above the limit: it counts pages of the binary, which belong to whoever read them
# first. Exit status 1 if a node was killed or grew past the limit.
source "$(dirname "$0")/systems.sh"

seconds=${BENCH_OVERLOAD_SECONDS:-60}
clients=${BENCH_OVERLOAD_CLIENTS:-4000}
limit=$((512 * 1024 * 1024))

# v2 has one hierarchy, v1 one for memory.
groups=()
remove_groups() {
    local group
    for group in "${groups[@]}"; do rmdir "$group" 2>/dev/null || true; done
    groups=()
}
# The group that this script is in.
home() {
    if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        echo "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)"
    else
        echo "/sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)"
    fi
}
trap 'stop_all; remove_groups' EXIT
limited() { # limited NUMBER PID: false if no group may be made
    local parent=/sys/fs/cgroup file=memory.max group
    [ -f $parent/cgroup.controllers ] || parent=/sys/fs/cgroup/memory file=memory.limit_in_bytes
    group=$parent/larder-bench-$$-$1
    mkdir "$group" 2>/dev/null || return 1
    groups+=("$group")
    echo $limit > "$group/$file" && echo "$2" > "$group/cgroup.procs"
} 2>/dev/null
# oom GROUP: processes killed for memory
oom() {
    # One of the two files is there, by the version of the hierarchy.
    { cat "$1/memory.events" "$1/memory.oom_control" 2>/dev/null || true; } \
        | awk '$1 == "oom_kill" { sum += $2 } END { print sum + 0 }'
}

# A connection for each client, on both sides.
ulimit -n "$(ulimit -Hn)"
home=$(home)
cgroup=true
limited start $$ || cgroup=false
$cgroup || export LARDER_STORAGE__MEMORY_MIB=${LARDER_STORAGE__MEMORY_MIB:-128}
start_larder 16
! $cgroup || echo $$ > "$home/cgroup.procs"
number=0
for pid in ${larder_pids//,/ }; do
    number=$((number + 1))
    limited $number "$pid" || cgroup=false
done
(
    while sleep 1; do
        for pid in ${larder_pids//,/ }; do echo "$pid $(resident "$pid")"; done
    done
) > "$work/samples" &
samplers=$!
keys=(--keys "${BENCH_KEYS:-50000}" --protocol http --route any --warmup 0s)
run larder "${keys[@]}" --load --mix read=100 --clients 64 --duration 1s > "$work/load" 2>&1 \
    || { cat "$work/load" >&2; die "the documents were not loaded"; }
# Judged below: a run that breaks off is one that a node did not stand.
line=$(run larder "${keys[@]}" --mix update=70,read=20,insert=10 --clients "$clients" --duration "${seconds}s" \
    2> "$work/bench.log") || { cat "$work/bench.log" >&2; line={}; }
kill "$samplers" 2>/dev/null || true
killed=0
for group in "${groups[@]}"; do killed=$((killed + $(oom "$group"))); done
# larder dev starts a node again that died: its first process is gone then.
gone=0
for pid in ${larder_pids//,/ }; do kill -0 "$pid" 2>/dev/null || gone=$((gone + 1)); done
[ "$gone" = 0 ] || cat "$work/dev.log" >&2
peak=$(awk '$2 > peak { peak = $2 } END { print peak + 0 }' "$work/samples")
stop_larder
remove_groups
jq -c --argjson cgroup $cgroup --argjson killed $killed --argjson gone $gone --argjson peak "$peak" --argjson limit $limit \
    '{part: "overload", cgroup: $cgroup, limitBytes: $limit, residentPeakBytes: $peak, killedForMemory: $killed,
      nodesGone: $gone} + .' <<< "$line"
$cgroup || [ "$peak" -le "$limit" ] || killed=1
[ "$line" != {} ] && [ "$killed" = 0 ] && [ "$gone" = 0 ] || die "a node did not stay within its memory"
