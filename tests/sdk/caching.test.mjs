// The filter as the published SDK reads it, and a cache by the rules of HTTP that asks it what to revalidate.
//
// LARDER_URLS lists the nodes with their base path. The bucket Demo must have a public cache policy.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { caching } from 'baqend';

const urls = process.env.LARDER_URLS.split(',');

/** What a browser with the SDK does: in Node the SDK itself neither caches nor asks its filter. */
class Browser {
  copies = new Map();

  constructor(url) {
    this.url = url;
  }

  async connect() {
    const connect = await (await fetch(`${this.url}/connect`, { headers: { accept: 'application/json' } })).json();
    this.filter = new caching.BloomFilter(connect.bloomFilter);
    this.whitelist = new Set();
    return connect;
  }

  /** Loads a document; says where it came from. */
  async load(id) {
    const revalidates = this.filter.contains(id) && !this.whitelist.has(id);
    const copy = this.copies.get(id);
    if (copy && !revalidates && Date.now() < copy.freshUntil) {
      return { from: 'cache', ...copy.body };
    }
    this.whitelist.add(id);
    const headers = revalidates ? { 'cache-control': 'max-age=0, no-cache' } : {};
    if (copy) headers['if-none-match'] = copy.tag;
    const sent = Date.now();
    const answer = await fetch(this.url + id, { headers });
    const age = /(?:^|, )max-age=(\d+)/.exec(answer.headers.get('cache-control'))?.[1] ?? 0;
    const body = answer.status === 304 ? copy.body : await answer.json();
    this.copies.set(id, { body, tag: answer.headers.get('etag'), freshUntil: sent + age * 1000 });
    return { from: answer.status === 304 ? 'confirmed' : 'origin', ...body };
  }
}

async function put(url, id, n) {
  const answer = await fetch(url + id, { method: 'PUT', body: JSON.stringify({ n }) });
  assert.equal(answer.status, 200);
}

describe('the SDK and a web cache', () => {
  const [here, elsewhere] = urls;

  it('revalidates what somebody else wrote, and only that', async () => {
    const [written, quiet] = ['/db/Demo/sdk%2Fwritten', '/db/Demo/sdk-quiet'];
    for (const id of [written, quiet]) await put(elsewhere, id, 1);
    const browser = new Browser(here);
    await browser.connect();
    for (const id of [written, quiet]) {
      assert.equal((await browser.load(id)).from, 'origin');
      assert.equal((await browser.load(id)).from, 'cache', 'a fresh copy is used');
    }

    await put(elsewhere, written, 2);
    assert.deepEqual(await browser.load(written).then(({ from, n }) => [from, n]), ['cache', 1], 'until the next filter');
    // Through the other node: this one may hear of it a moment later.
    while (!browser.filter.contains(written)) await browser.connect();
    assert.ok(!browser.filter.contains(quiet));
    assert.deepEqual(await browser.load(written).then(({ from, n }) => [from, n]), ['origin', 2]);
    assert.equal((await browser.load(written)).from, 'cache', 'once it is revalidated it is good');
    assert.equal((await browser.load(quiet)).from, 'cache');

    await browser.connect();
    assert.equal((await browser.load(written)).from, 'confirmed', '304 while it is in the filter');
  });

  it('is told how old a page can be', async () => {
    const connect = await new Browser(here).connect();
    assert.ok(connect.staleness.totalSeconds >= connect.bloomFilterRefresh);
  });
});
