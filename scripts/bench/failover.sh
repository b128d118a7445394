#!/usr/bin/env bash
# Kills the node that leads most shards with -9, again and again, and measures how long writes to its shards wait.
#
#   scripts/bench/failover.sh     BENCH_KILLS (50) times each of BENCH_SYSTEMS ("larder etcd")
source "$(dirname "$0")/systems.sh"

kills=${BENCH_KILLS:-50}
settings=(--keys 1000 --value-bytes 64 --distribution uniform --mix update=100 --clients 64 --protocol grpc --warmup 1s
    --outages "$kills")

# outages SYSTEM COMMAND ARGUMENT...: one line of the bench. Without what was said, a failure could not be told.
outages() {
    local system=$1 command=$2
    shift 2
    "$larder" bench "$@" -o json "${settings[@]}" --outage-command "$command" 2>"$work/bench.log" \
        | jq -c '{part: "failover"} + .' || { tail -n 50 "$work"/*.log >&2; die "the outages of $system did not all end"; }
}

# larder dev brings its nodes back by itself.
kill_larder() {
    start_larder 16
    cat > "$work/kill-node" <<SCRIPT
#!/usr/bin/env bash
number=\$(((\${1##*:} - $port) / 10 + 1))
kill -9 "\$(pgrep -P $dev -f "/node\$number/")"
SCRIPT
    chmod +x "$work/kill-node"
    outages larder "$work/kill-node" --admin "$larder_admins"
    stop_larder
}

# The member is down for about as long as a larder node that is started at once. It may only be started when the killed
# one is gone: until then its ports are taken, and etcd does not wait for them.
kill_etcd() {
    start_etcd
    cat > "$work/kill-member" <<SCRIPT
#!/usr/bin/env bash
work=$work port=$port
$(declare -f start_member)
number=\$((\${1##*:} - $port - 100))
pid=\$(cat $work/etcd/pid\$number)
kill -9 "\$pid"
while kill -0 "\$pid" 2>/dev/null; do sleep 0.01; done
start_member "\$number" > $work/etcd/pid\$number
SCRIPT
    chmod +x "$work/kill-member"
    outages etcd "$work/kill-member" --target etcd "$etcd_urls"
    stop_etcd
}

for system in ${BENCH_SYSTEMS:-larder etcd}; do "kill_$system"; done
