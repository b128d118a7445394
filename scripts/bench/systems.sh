# shellcheck shell=bash
# Starts and stops what the benchmark measures: three larder nodes, three etcd members, nginx. Sourced by its parts.
#
# Everything lives below $work and listens on loopback from $port on; whatever was started is stopped on exit.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
larder=${LARDER_BIN:-${CARGO_TARGET_DIR:-$root/target}/release/larder}
[ -x "$larder" ] || { echo "no $larder: run make build" >&2; exit 1; }
# Below the target folder and not in /tmp, which may be memory: both systems sync to the same disk.
disk=${BENCH_DIR:-$root/target/bench}
mkdir -p "$disk"
work=$(mktemp -d -p "$disk")
port=${BENCH_PORT:-7500}

say() { echo "bench: $*" >&2; }
die() { say "$@"; exit 1; }

dev=
etcd_pids=()
nginx_pid=
stop_all() {
    local pid
    stop_larder
    stop_etcd
    [ -z "$nginx_pid" ] || kill "$nginx_pid" 2>/dev/null || true
    for pid in ${samplers:-}; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap stop_all EXIT
trap 'exit 130' INT TERM

# start_larder SHARDS: sets larder_urls, larder_admins (with commas) and larder_pids
start_larder() {
    "$larder" dev --respawn --shards "$1" --data "$work/nodes" --port "$port" --print-ready-json \
        > "$work/ready" 2> "$work/dev.log" &
    dev=$!
    until [ -s "$work/ready" ]; do
        kill -0 "$dev" 2>/dev/null || { cat "$work/dev.log" >&2; die "the larder nodes did not start"; }
        sleep 0.1
    done
    local base=http://127.0.0.1
    larder_urls=$base:$port,$base:$((port + 10)),$base:$((port + 20))
    larder_admins=$base:$((port + 2)),$base:$((port + 12)),$base:$((port + 22))
    larder_pids=$(grep -o '"pid":[0-9]*' "$work/ready" | cut -d: -f2 | paste -sd,)
}

stop_larder() {
    [ -n "$dev" ] || return 0
    kill -TERM "$dev" 2>/dev/null || true
    wait "$dev" 2>/dev/null || true
    dev=
    rm -rf "$work/nodes" "$work/ready"
}

# start_member NUMBER: prints its process id. Also brings one back that was killed.
start_member() {
    local clients=$((port + 100)) peers=$((port + 110)) base=http://127.0.0.1
    etcd --name "m$1" --data-dir "$work/etcd/m$1" --log-level error \
        --listen-client-urls "$base:$((clients + $1))" --advertise-client-urls "$base:$((clients + $1))" \
        --listen-peer-urls "$base:$((peers + $1))" --initial-advertise-peer-urls "$base:$((peers + $1))" \
        --initial-cluster "m1=$base:$((peers + 1)),m2=$base:$((peers + 2)),m3=$base:$((peers + 3))" \
        </dev/null >> "$work/etcd.log" 2>&1 &
    # Who kills it on purpose need not be told that it died.
    disown $!
    echo $!
}

# start_etcd: sets etcd_urls and etcd_pids; everything that is not an address is etcd's default
start_etcd() {
    local number base=http://127.0.0.1
    mkdir -p "$work/etcd"
    etcd_urls=$base:$((port + 101)),$base:$((port + 102)),$base:$((port + 103))
    for number in 1 2 3; do
        start_member "$number" > "$work/etcd/pid$number"
        etcd_pids+=("$(cat "$work/etcd/pid$number")")
    done
    for number in $(seq 100); do
        ! curl -sf "$base:$((port + 101))/health" 2>/dev/null | grep -q true || return 0
        sleep 0.1
    done
    cat "$work/etcd.log" >&2
    die "the etcd members did not start"
}

stop_etcd() {
    local pid file
    for file in "$work"/etcd/pid*; do
        [ -f "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || continue
        while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    done
    etcd_pids=()
    rm -rf "$work/etcd"
}

# start_nginx FILE: serves it at $nginx_url with nginx's defaults, without the access log
start_nginx() {
    mkdir -p "$work/www"
    cp "$1" "$work/www/file"
    chmod -R a+rX "$work" "$work/www"
    nginx_url=http://127.0.0.1:$((port + 120))/file
    cat > "$work/nginx.conf" <<-CONF
	user root;
	worker_processes auto;
	daemon off;
	pid $work/nginx.pid;
	error_log $work/nginx.log;
	events { worker_connections 1024; }
	http {
	    access_log off;
	    sendfile on;
	    tcp_nopush on;
	    keepalive_requests 1000000000;
	    server { listen 127.0.0.1:$((port + 120)); root $work/www; default_type application/json; }
	}
	CONF
    nginx -c "$work/nginx.conf" -e "$work/nginx.log" &
    nginx_pid=$!
    local try
    for try in $(seq 50); do
        ! curl -sf -o /dev/null "$nginx_url" || return 0
        sleep 0.1
    done
    cat "$work/nginx.log" >&2
    die "nginx did not start"
}

# With commas, as larder bench takes them.
etcd_pid_list() { (IFS=,; echo "${etcd_pids[*]}"); }

# run SYSTEM ARGUMENT...: one line of JSON of larder bench for the system
run() {
    local system=$1
    shift
    if [ "$system" = larder ]; then
        "$larder" bench --admin "$larder_admins" --pid "$larder_pids" -o json "$@"
    else
        "$larder" bench --target etcd "$etcd_urls" --pid "$(etcd_pid_list)" -o json "$@"
    fi
}

# CPU ticks of a process, 100 a second.
ticks() { awk '{ sub(/^.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
resident() { awk '/^VmRSS/ { print $2 * 1024 }' "/proc/$1/status" 2>/dev/null || echo 0; }
