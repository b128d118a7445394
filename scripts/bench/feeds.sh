#!/usr/bin/env bash
# Change feeds: events a second from a cold log over server-sent events, and the time from an acknowledged write to a subscriber.
#
#   scripts/bench/feeds.sh        BENCH_EVENTS (200000), BENCH_FEED_WRITES (2000)
#
# Three nodes, 16 shards. Cold: the documents are imported, then one feed reads everything from the oldest event on, asked at the first
# node. Latency: one writer at the second node, one subscriber at the first; from before the write is sent to when its event was read.
source "$(dirname "$0")/systems.sh"

events=${BENCH_EVENTS:-200000}
writes=${BENCH_FEED_WRITES:-2000}

start_larder 16
url=http://127.0.0.1:$port
awk -v events="$events" 'BEGIN {
    for (n = 0; n < events; n++) printf "{\"id\":\"/db/Demo/e%d\",\"n\":%d,\"text\":\"%0200d\"}\n", n, n, n
}' > "$work/events.ndjson"
say "loading $events documents"
"$larder" import "$work/events.ndjson" --url "$url" --bucket Demo > /dev/null

cat > "$work/feed.py" <<'PY'
import json, sys, threading, time, urllib.request

url, other, events, writes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def stream(start):
    return urllib.request.urlopen(url + "/v1/changes?bucket=Demo&from=" + start)

began, seen = time.monotonic(), 0
with stream("oldest") as feed:
    for line in feed:
        seen += line == b"event: change\n"
        if seen >= events:
            break
rate = seen / (time.monotonic() - began)

sent, took, ready = {}, [], threading.Event()

def subscribe():
    with stream("now") as feed:
        ready.set()
        for line in feed:
            if not line.startswith(b"data: {\"event\""):
                continue
            now, key = time.monotonic(), json.loads(line[6:])["id"]
            if key in sent:
                took.append(now - sent.pop(key))
            if len(took) == writes:
                return

reader = threading.Thread(target=subscribe)
reader.start()
ready.wait()
for n in range(writes):
    path = f"/db/Demo/latency{n}"
    request = urllib.request.Request(other + "/v1" + path, b'{"n":1}', {"content-type": "application/json"}, method="PUT")
    sent[path] = time.monotonic()
    urllib.request.urlopen(request).read()
reader.join(30)
took.sort()
at = lambda part: round(took[min(len(took) - 1, int(len(took) * part))] * 1000, 2)
print(json.dumps({"part": "feeds", "events": seen, "eventsPerSecond": round(rate), "writes": len(took), "p50Ms": at(0.5), "p99Ms": at(0.99)}))
PY
python3 "$work/feed.py" "$url" "http://127.0.0.1:$((port + 10))" "$events" "$writes"
