#!/usr/bin/env bash
# Real-time queries over WebSocket: from a write to its subscriber, and what 10,000 registered queries cost the writers.
#
#   scripts/bench/live.sh         BENCH_LIVE_RATE (1000 writes/s), BENCH_LIVE_SECONDS (10), BENCH_LIVE_QUERIES (10000)
#
# Three nodes, 16 shards. Writers at the second node, one subscriber to all of them at the first; from before the write is sent to when
# its frame was read. Then the same without subscribers and with so many queries of one value or a range each at the first node.
# What looking up one change costs against asking each query: `cargo nextest run --release -p service --run-ignored all
# --no-capture cost_of_a_change`.
source "$(dirname "$0")/systems.sh"

start_larder 16

cat > "$work/live.mjs" <<'JS'
import { Agent, request } from 'node:http';

const [, , reader, writer, rate, seconds, queries] = process.argv;
const agent = new Agent({ keepAlive: true, maxSockets: 64 });

/** The value below which so many of all are. */
const at = (all, part) => Math.round(all.sort((a, b) => a - b)[Math.min(all.length - 1, Math.floor(all.length * part))] * 100) / 100;

function put(key, body) {
  return new Promise((done, fail) => {
    const url = `${writer}/v1/db/Demo/${key}`;
    const call = request(url, { agent, method: 'PUT', headers: { 'content-type': 'application/json' } }, (answer) => {
      answer.resume();
      answer.on('end', done);
    });
    call.on('error', fail);
    call.end(JSON.stringify(body));
  });
}

/** Writes at the rate; gives how long each took, in milliseconds. */
async function write(name, sent) {
  const took = [];
  const works = [];
  const began = performance.now();
  for (let n = 0; n < rate * seconds; n += 1) {
    const due = began + (n * 1000) / rate;
    while (performance.now() < due) await new Promise((next) => setTimeout(next, 1));
    const key = `${name}${n}`;
    const start = performance.now();
    sent?.set(`/db/Demo/${key}`, start);
    works.push(put(key, { n: n % 20000 }).then(() => took.push(performance.now() - start)));
  }
  await Promise.all(works);
  return took;
}

function socket() {
  const open = new WebSocket(`${reader.replace('http', 'ws')}/v1/events`);
  return new Promise((done, fail) => {
    open.onopen = () => done(open);
    open.onerror = fail;
  });
}

const subscribe = (to, id, query) => to.send(JSON.stringify({ id, type: 'subscribe', bucket: 'Demo', query: JSON.stringify(query), initial: true }));

const [sent, took] = [new Map(), []];
const one = await socket();
await new Promise((begun) => {
  one.onmessage = ({ data }) => {
    const now = performance.now();
    const frame = JSON.parse(data);
    if (frame.type === 'result') begun();
    else took.push(now - sent.get(frame.data.id));
  };
  subscribe(one, 'one', { n: { $gte: 0 } });
});
await write('latency', sent);
while (took.length < sent.size) await new Promise((next) => setTimeout(next, 10));
one.close();
const without = await write('without');
const sockets = [];
let begun = 0;
for (let n = 0; n < queries; n += 1) {
  if (n % 100 === 0) sockets.push(await socket());
  const last = sockets.at(-1);
  last.onmessage = ({ data }) => { begun += JSON.parse(data).type === 'result'; };
  const value = 100000 + n;
  subscribe(last, `q${n}`, n % 2 ? { n: value } : { n: { $gte: value, $lt: value + 5 } });
}
while (begun < queries) await new Promise((next) => setTimeout(next, 10));
const withQueries = await write('with');
console.log(JSON.stringify({
  part: 'live', writesPerSecond: Number(rate), p50Ms: at(took, 0.5), p99Ms: at(took, 0.99), queries: Number(queries),
  writeP99MsWithout: at(without, 0.99), writeP99MsWith: at(withQueries, 0.99),
}));
process.exit(0);
JS
node --experimental-websocket --no-warnings "$work/live.mjs" "http://127.0.0.1:$port" "http://127.0.0.1:$((port + 10))" \
    "${BENCH_LIVE_RATE:-1000}" "${BENCH_LIVE_SECONDS:-10}" "${BENCH_LIVE_QUERIES:-10000}"
