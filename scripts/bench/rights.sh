#!/usr/bin/env bash
# What rights cost: point reads with a token and an ACL beside ones of public documents by nobody, and a query by somebody who may see 100 of
# many documents beside the same query over 100 public ones. Last, reads while 50 log-ins a second are offered, and without any.
#
#   scripts/bench/rights.sh      prints lines of JSON; see scripts/bench.sh for the variables
#
# Over HTTP at the first of three nodes, with wrk. Promised: a read keeps at least 0.9 of its throughput, a query takes at most 3 times as long.
# What is too much of the log-ins (h2load offers them) is to wait, and then to be refused with 429.
source "$(dirname "$0")/systems.sh"

rounds=${BENCH_ROUNDS:-3}
seconds=${BENCH_SECONDS:-10}
documents=${BENCH_RIGHTS:-100000}
clients=${BENCH_QUERY_CLIENTS:-1 64}
points=1000

start_larder 16
url=http://127.0.0.1:$port
# token NAME PASSWORD
token() {
    jq -n --arg username "$1" --arg password "$2" '{$username, $password}' \
        | curl -sfi "$url/v1/db/User/login" -H 'content-type: application/json' -d @- \
        | tr -d '\r' | sed -n 's/^baqend-authorization-token: //p'
}
root=$(token root root)
as_root=(-H "authorization: BAT $root" -H 'content-type: application/json')
for bucket in Public Guarded Hundred Crowd; do
    curl -sf "$url/v1/schema" "${as_root[@]}" -d "[{\"class\":\"/db/$bucket\",\"metadata\":{\"larder.open\":\"true\"},\"fields\":{}}]" > /dev/null
done

# A user with root's password, and a role.
curl -sf "$url/v1/db/User" "${as_root[@]}" \
    | jq -c '[.[] | select(.username == "root") | {id: "/db/User/100", username: "reader", _password}]' \
    | curl -sf -X PUT "$url/v1/db/User" "${as_root[@]}" -d @- > /dev/null
curl -sf -X PUT "$url/v1/db/Role/100" "${as_root[@]}" -d '{"name":"readers","users":["/db/User/100"]}' > /dev/null
reader=$(token reader root)

note=$(head -c 600 /dev/urandom | base64 -w0 | tr -d '+/=' | head -c 700)
# load BUCKET COUNT: documents; those whose number `mine` says are the reader's, the others another one's; `open` ones everybody's.
load() {
    awk -v bucket="$1" -v count="$2" -v mine="$3" -v note="$note" 'BEGIN {
        for (n = 0; n < count; n++) {
            acl = ""
            if (mine > 0) acl = sprintf("\"acl\":{\"read\":{\"/db/%s\":\"allow\"},\"write\":{}},", n % mine ? "User/200" : "Role/100")
            printf "{\"id\":\"/db/%s/k%d\",%s\"n\":%d,\"note\":\"%s\"}\n", bucket, n, acl, n, note
        }
    }' > "$work/$1.ndjson"
    LARDER_URL=$url "$larder" import "$work/$1.ndjson" --bucket "$1" > /dev/null
}
say "loading $documents documents"
load Public "$points" 0
load Guarded "$points" 1
load Hundred 100 0
load Crowd "$documents" $((documents / 100))
# The entries of readers are filled in the background.
until curl -sf "$url/v1/explain/Crowd?q=%7B%7D&as=100" "${as_root[@]}" \
    | jq -e '[.shards[].plan] | all(. == "readers" or . == "scan") and any(. == "readers")' > /dev/null; do sleep 0.5; done

cat > "$work/point.lua" <<'LUA'
local bucket, points = os.getenv("BUCKET"), tonumber(os.getenv("POINTS"))
function init() math.randomseed(os.time()) end
function request() return wrk.format("GET", "/v1/db/" .. bucket .. "/k" .. math.random(0, points - 1)) end
LUA
cat > "$work/find.lua" <<'LUA'
local bucket = os.getenv("BUCKET")
function request() return wrk.format("GET", "/v1/db/" .. bucket .. "/query?q=%7B%7D&count=100") end
LUA

# ask OPERATION SCRIPT BUCKET CLIENTS ROUND HEADER...
ask() {
    local operation=$1 script=$2 bucket=$3 count=$4 round=$5
    shift 5
    BUCKET=$bucket POINTS=$points wrk -t1 -c"$count" -d"${seconds}s" --latency -s "$work/$script.lua" "$@" "$url" > "$work/wrk"
    # shellcheck disable=SC2046
    printf '{"part":"rights","operation":"%s","guarded":%s,"clients":%d,"round":%d,"throughput":%s,"p50":%d,"p99":%d,"failed":%d}\n' \
        "$operation" "$([ $# -gt 0 ] && echo true || echo false)" "$count" "$round" $(awk '
        function us(text) { n = text + 0; return text ~ /us$/ ? n : text ~ /ms$/ ? n * 1000 : n * 1000000 }
        $1 == "50%" { p50 = us($2) } $1 == "99%" { p99 = us($2) } $1 == "Requests/sec:" { rate = $2 }
        /Non-2xx/ { failed = $NF } /Socket errors/ { gsub(",", ""); failed += $4 + $6 + $8 + $10 }
        END { printf "%s %d %d %d", rate, p50, p99, failed }' "$work/wrk")
}

for round in $(seq "$rounds"); do
    for count in $clients; do
        ask get point Public "$count" "$round"
        ask get point Guarded "$count" "$round" -H "authorization: BAT $reader"
        ask query find Hundred "$count" "$round"
        ask query find Crowd "$count" "$round" -H "authorization: BAT $reader"
    done
done

echo '{"username":"reader","password":"root"}' > "$work/login.json"
for round in $(seq "$rounds"); do
    for logins in 0 50; do
        : > "$work/h2load"
        if [ "$logins" -gt 0 ]; then
            h2load --rps "$logins" -c 1 -m 100 -D "$((seconds + 1))" -d "$work/login.json" -H 'content-type: application/json' \
                "$url/v1/db/User/login" > "$work/h2load" &
            asker=$!
        fi
        BUCKET=Public POINTS=$points wrk -t1 -c64 -d"${seconds}s" -s "$work/point.lua" "$url" > "$work/wrk"
        [ "$logins" -eq 0 ] || wait "$asker"
        printf '{"part":"logins","offered":%d,"round":%d,"throughput":%s,"answered":%d,"refused":%d}\n' "$logins" "$round" \
            "$(awk '$1 == "Requests/sec:" { print $2 }' "$work/wrk")" \
            $(awk '/^status codes:/ { ok = $3; refused = $7 } END { print ok + 0, refused + 0 }' "$work/h2load")
    done
done
