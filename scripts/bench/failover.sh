#!/usr/bin/env bash
# Kills the node that leads most shards with -9, again and again, and measures how long writes to its shards wait.
#
#   scripts/bench/failover.sh     BENCH_KILLS (50) times each, larder and then etcd
source "$(dirname "$0")/systems.sh"

kills=${BENCH_KILLS:-50}
# Without what the bench said, a failure could not be told.
failed() { cat "$work/bench.log" >&2; die "the outages of $1 did not all end"; }
settings=(--keys 1000 --value-bytes 64 --distribution uniform --mix update=100 --clients 64 --protocol grpc --warmup 1s
    --outages "$kills")

# larder dev brings its nodes back by itself.
start_larder 16
cat > "$work/kill-node" <<SCRIPT
#!/usr/bin/env bash
number=\$(((\${1##*:} - $port) / 10 + 1))
kill -9 "\$(pgrep -P $dev -f "/node\$number/")"
SCRIPT
chmod +x "$work/kill-node"
"$larder" bench --admin "$larder_admins" -o json "${settings[@]}" --outage-command "$work/kill-node" 2>"$work/bench.log" \
    | jq -c '{part: "failover"} + .' || failed larder
stop_larder

start_etcd
# The member is down for about as long as a larder node that is started at once.
cat > "$work/kill-member" <<SCRIPT
#!/usr/bin/env bash
work=$work port=$port
$(declare -f start_member)
number=\$((\${1##*:} - $port - 100))
kill -9 "\$(cat $work/etcd/pid\$number)"
start_member "\$number" > $work/etcd/pid\$number
SCRIPT
chmod +x "$work/kill-member"
"$larder" bench --target etcd "$etcd_urls" -o json "${settings[@]}" --outage-command "$work/kill-member" 2>"$work/bench.log" \
    | jq -c '{part: "failover"} + .' || failed etcd
