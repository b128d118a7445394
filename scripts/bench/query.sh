#!/usr/bin/env bash
# Indexed queries, counts, a full scan and counters over documents of the film kind; the same in PostgreSQL's JSONB.
#
#   scripts/bench/query.sh      prints lines of JSON; see scripts/bench.sh for the variables
#
# BENCH_FILMS (100000) documents of about 1 KiB. Larder: three nodes, asked over HTTP at the first one. PostgreSQL: one server with its
# defaults (which sync each commit), expression indexes on the same members, asked with prepared statements over a Unix socket. Both are
# there all the time; the one that is not asked is idle.
source "$(dirname "$0")/systems.sh"

rounds=${BENCH_ROUNDS:-3}
seconds=${BENCH_SECONDS:-10}
films=${BENCH_FILMS:-100000}
clients=${BENCH_QUERY_CLIENTS:-1 64}
workloads="equal range count scan inc"

pg_bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -1)
pg=$work/postgres
stop_postgres() {
    [ ! -f "$pg/data/postmaster.pid" ] || as_postgres "$pg_bin/pg_ctl" -D "$pg/data" -m fast stop > /dev/null || true
}
trap 'stop_postgres; stop_all' EXIT

# It refuses to run as root.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

sql() { as_postgres "$pg_bin/psql" -qAtX -h "$pg" -p "$((port + 130))" -d postgres "$@"; }

# --- documents ---------------------------------------------------------------------------------------------------

# Ten films of each director, twenty genres, a note that makes up the size.
awk -v films="$films" 'BEGIN {
    srand(7)
    for (n = 0; n < films; n++) {
        note = ""
        while (length(note) < 800) note = note sprintf("%x ", rand() * 4294967296)
        printf "{\"id\":\"/db/Film/f%d\",\"title\":\"film %d\",\"director\":\"d%d\",\"genre\":\"g%d\",", n, n, n / 10, n % 20
        printf "\"year\":%d,\"rating\":%.6f,\"votes\":0,\"note\":\"%s\"}\n", 1900 + n % 120, rand() * 10, note
    }
}' > "$work/films.ndjson"

start_larder 16
url=http://127.0.0.1:$port
say "loading $films documents into larder"
# With types, as a web app has them: a walk over an index gives an order only where a field cannot hold lists.
token=$(curl -sfi "$url/v1/db/User/login" -H 'content-type: application/json' -d '{"username":"root","password":"root"}' \
    | tr -d '\r' | sed -n 's/^baqend-authorization-token: //p')
jq -n '{title: "String", director: "String", genre: "String", year: "Integer", rating: "Double", votes: "Integer", note: "String"}
    | with_entries(.value = {name: .key, type: "/db/\(.value)"}) | [{class: "/db/Film", fields: .}]' \
    | curl -sf "$url/v1/schema" -H "authorization: BAT $token" -H 'content-type: application/json' -d @- > /dev/null
"$larder" import "$work/films.ndjson" --url "$url" --bucket Film > /dev/null
for fields in director rating genre; do
    LARDER_URL=$url "$larder" index create Film "$fields" > /dev/null
done
until [ "$(curl -sf "$url/v1/index/Film" | jq '[.[] | select(.state == "ready")] | length')" = 3 ]; do sleep 0.2; done

if [ -n "$pg_bin" ]; then
    say "loading $films documents into PostgreSQL"
    mkdir -p "$pg"
    [ "$(id -u)" != 0 ] || chown postgres "$pg"
    chmod a+x "$work" "$disk"
    as_postgres "$pg_bin/initdb" -D "$pg/data" -A trust > /dev/null
    as_postgres "$pg_bin/pg_ctl" -D "$pg/data" -w -l "$pg/log" \
        -o "-c listen_addresses= -c unix_socket_directories=$pg -c port=$((port + 130)) -c max_connections=200" start > /dev/null
    sql -c "create table film (id text primary key, doc jsonb not null)"
    jq -r '[(.id | ltrimstr("/db/Film/")), tojson] | @tsv' "$work/films.ndjson" | sql -c "copy film from stdin"
    sql -c "create index on film ((doc->>'director'))" -c "create index on film (((doc->>'rating')::float8))" \
        -c "create index on film ((doc->>'genre'))" -c "vacuum analyze film"
else
    say "no PostgreSQL here (Debian: postgresql), larder alone is measured"
fi

# --- the same questions to both ----------------------------------------------------------------------------------

cat > "$work/ask.lua" <<'LUA'
local films, work = tonumber(os.getenv("FILMS")), os.getenv("WORKLOAD")
local function get(word, filter, more)
    local q = filter:gsub("[^%w]", function(c) return string.format("%%%02X", c:byte()) end)
    return wrk.format("GET", "/v1/db/Film/" .. word .. "?q=" .. q .. (more or ""))
end
-- Threads have environments of their own.
function init() math.randomseed(os.time()) end
function request()
    if work == "equal" then
        return get("query", '{"director":"d' .. math.random(0, films / 10 - 1) .. '"}')
    elseif work == "range" then
        return get("query", '{"rating":{"$gte":' .. math.random() * 9 .. '}}', "&sort=%7B%22rating%22%3A1%7D&count=20")
    elseif work == "count" then
        return get("count", '{"genre":"g' .. math.random(0, 19) .. '"}')
    elseif work == "scan" then
        return get("count", '{"title":"film ' .. math.random(0, films - 1) .. '"}')
    end
    local path = "/v1/db/Film/f" .. math.random(0, 999)
    return wrk.format("POST", path, { ["content-type"] = "application/json" }, '{"$inc":{"votes":1}}')
end
LUA
cat > "$work/equal.sql" <<SQL
\\set d random(0, $films / 10 - 1)
select doc from film where doc->>'director' = 'd' || :d;
SQL
cat > "$work/range.sql" <<SQL
\\set r random(0, 9000000)
select doc from film where (doc->>'rating')::float8 >= :r / 1000000.0 order by (doc->>'rating')::float8 limit 20;
SQL
cat > "$work/count.sql" <<SQL
\\set g random(0, 19)
select count(*) from film where doc->>'genre' = 'g' || :g;
SQL
cat > "$work/scan.sql" <<SQL
\\set n random(0, $films - 1)
select count(*) from film where doc->>'title' = 'film ' || :n;
SQL
cat > "$work/inc.sql" <<SQL
\\set n random(0, 999)
update film set doc = jsonb_set(doc, '{votes}', to_jsonb((doc->>'votes')::int + 1)) where id = 'f' || :n;
SQL

# line TARGET WORKLOAD CLIENTS ROUND RATE P50 P99 FAILED, times in microseconds
line() {
    printf '{"part":"query","target":"%s","operation":"%s","clients":%d,"round":%d,"throughput":%s,"p50":%d,"p99":%d,"failed":%d}\n' "$@"
}

# ask_larder WORKLOAD CLIENTS ROUND
ask_larder() {
    FILMS=$films WORKLOAD=$1 wrk -t1 -c"$2" -d"${seconds}s" --latency -s "$work/ask.lua" "$url" > "$work/wrk"
    # shellcheck disable=SC2046
    line larder "$1" "$2" "$3" $(awk '
        function us(text) { n = text + 0; return text ~ /us$/ ? n : text ~ /ms$/ ? n * 1000 : n * 1000000 }
        $1 == "50%" { p50 = us($2) } $1 == "99%" { p99 = us($2) } $1 == "Requests/sec:" { rate = $2 }
        /Non-2xx/ { failed = $NF } /Socket errors/ { gsub(",", ""); failed += $4 + $6 + $8 + $10 }
        END { printf "%s %d %d %d", rate, p50, p99, failed }' "$work/wrk")
}

# ask_postgres WORKLOAD CLIENTS ROUND
ask_postgres() {
    rm -f "$pg"/log.*
    as_postgres "$pg_bin/pgbench" -n -M prepared -h "$pg" -p "$((port + 130))" -c "$2" -j 1 -T "$seconds" \
        -l --log-prefix="$pg/log" -f "$work/$1.sql" postgres > "$work/pgbench" 2>&1 || { cat "$work/pgbench" >&2; die "pgbench failed"; }
    # The third column of its log is how long a transaction took.
    cat "$pg"/log.* | awk '{ print $3 }' | sort -n > "$work/times"
    # shellcheck disable=SC2046
    line postgres "$1" "$2" "$3" $(awk '/^tps/ { print $3 }' "$work/pgbench") $(awk '
        { took[NR] = $1 } END { printf "%d %d", took[int(NR * 0.5) + 1], took[int(NR * 0.99) + 1] }' "$work/times") 0
}

for round in $(seq "$rounds"); do
    for workload in $workloads; do
        for count in $clients; do
            ask_larder "$workload" "$count" "$round"
            [ -z "$pg_bin" ] || ask_postgres "$workload" "$count" "$round"
        done
    done
done
