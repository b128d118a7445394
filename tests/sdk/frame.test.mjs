// The published SDK as a browser runs it on another origin: through the hidden frame that POST /connect fills.
//
// A browser is stood in for by two script contexts: the app's page, with the SDK's browser build, and the frame, with the page that the
// server sent. Between them pass only messages, as in a browser. LARDER_URLS is that of sdk.test.mjs.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import vm from 'node:vm';

const url = (process.env.LARDER_URLS ?? 'http://127.0.0.1:7400/v1').split(',')[0];
const server = new URL(url);
const APP = 'https://app.example';
const sdk = readFileSync(new URL('./node_modules/baqend/dist/baqend.es5.js', import.meta.url), 'utf8');

/** A window: what both pages need of one. */
function makeWindow(address, more) {
  const listeners = [];
  const window = {
    // The SDK's own time-outs need not keep the test from ending.
    setTimeout: (call, ms) => setTimeout(call, ms).unref(),
    console, clearTimeout, setInterval, clearInterval, atob,
    location: new URL(address),
    listeners,
    addEventListener: (type, listener) => { if (type === 'message') listeners.push(listener); },
    removeEventListener: () => {},
    ...more,
  };
  window.window = window;
  window.self = window;
  return vm.createContext(window);
}

/** Delivers a message to a window, later, as browsers do. */
function post(target, data, origin, source) {
  setTimeout(() => target.listeners.forEach((listener) => listener({ data, origin, source })), 0);
}

/** XMLHttpRequest on the origin of the server, over fetch; `sent` collects what goes out. */
function xhrClass(sent) {
  return class {
    #headers = {};

    open(method, path) { Object.assign(this, { method, path }); }

    setRequestHeader(name, value) { this.#headers[name] = value; }

    getResponseHeader(name) { return this.response?.headers.get(name) ?? null; }

    async send(body) {
      sent.push(`${this.method} ${this.path}`);
      this.response = await fetch(new URL(this.path, server), { method: this.method, headers: this.#headers, body });
      this.responseText = await this.response.text();
      this.status = this.response.status;
      this.readyState = 4;
      this.onreadystatechange();
    }
  };
}

/** Runs the page that the server answers a form with; gives the frame's window. */
async function loadFrame(action, fields, parent, sent) {
  const answer = await fetch(action, { method: 'POST', body: new URLSearchParams(fields) });
  assert.equal(answer.status, 200);
  assert.match(answer.headers.get('content-type'), /^text\/html/);
  assert.equal(answer.headers.get('x-frame-options'), null);
  const elements = [];
  const scripts = [];
  for (const [, tag, text] of (await answer.text()).matchAll(/<script([^>]*)>([^]*?)<\/script>/g)) {
    const attributes = Object.fromEntries([...tag.matchAll(/([\w-]+)="([^"]*)"/g)].map(([, name, value]) => [name, value]));
    if (attributes.type === 'application/json') {
      const element = { id: attributes.id, text, getAttribute: (name) => attributes[name] ?? null };
      element.parentNode = { removeChild: (child) => elements.splice(elements.indexOf(child), 1) };
      elements.push(element);
    } else {
      scripts.push(text);
    }
  }
  const document = { getElementById: (id) => elements.find((element) => element.id === id) ?? null };
  const frame = makeWindow(action, { document, XMLHttpRequest: xhrClass(sent) });
  scripts.forEach((script) => vm.runInContext(script, frame));
  const reply = { postMessage: (data, origin) => {
    assert.equal(origin, APP, 'the answer goes to nobody else');
    post(parent, data, server.origin, null);
  } };
  // What the app's page sees of the frame.
  return { postMessage: (data, origin) => {
    assert.equal(origin, server.origin);
    post(frame, data, APP, reply);
  } };
}

/** An app's page with the SDK in it. `sent` collects the requests that its frame makes, `storage` outlives the page. */
function openApp(sent, storage = new Map()) {
  const local = {
    getItem: (name) => storage.get(name) ?? null,
    setItem: (name, value) => storage.set(name, value),
    removeItem: (name) => storage.delete(name),
  };
  let iframe;
  const element = (kind) => {
    const made = { kind, children: [], setAttribute: () => {}, appendChild: (child) => made.children.push(child) };
    if (kind === 'iframe') {
      iframe = made;
      made.addEventListener = (type, listener) => { made.onload = listener; };
    }
    made.submit = async () => {
      assert.equal(made.method, 'post');
      const fields = made.children.map((input) => [input.name, input.value]);
      iframe.contentWindow = await loadFrame(made.action, fields, app, sent);
      iframe.onload();
    };
    return made;
  };
  const document = { createElement: element, body: { appendChild: () => {} } };
  const XMLHttpRequest = class { open() { assert.fail('a page on another origin must not ask by itself'); } };
  const app = makeWindow(`${APP}/`, { document, localStorage: local, sessionStorage: local, XMLHttpRequest });
  vm.runInContext(sdk, app);
  return app.Baqend;
}

async function connect(factory) {
  await factory.ready();
  return factory.createEntityManager(true).ready();
}

describe(`the SDK in a browser on another origin, at ${url}`, () => {
  it('connects from the page alone, and does everything else through the frame', async () => {
    const sent = [];
    const { EntityManagerFactory } = openApp(sent);
    const db = await connect(new EntityManagerFactory({ host: url }));
    assert.deepEqual(sent, [], 'the page held the answer');
    assert.ok(db.metamodel.entity('Demo'));
    assert.equal(db.User.me, null);

    const error = await db.User.login('root', 'wrong').then(() => null, (e) => e);
    assert.equal(error.status, 460, 'a refusal keeps its status');
    const user = await db.User.login('root', 'root');
    assert.equal(user.id, '/db/User/1');
    assert.ok(db.token.length >= 62);
    assert.deepEqual(sent, ['POST /v1/db/User/login', 'POST /v1/db/User/login']);
  });

  it('keeps its session when the page is loaded again', async () => {
    const storage = new Map();
    const before = openApp([], storage);
    const first = await connect(new before.EntityManagerFactory({ host: url }));
    await first.User.login('root', 'root', true);
    const sent = [];
    const after = openApp(sent, storage);
    const again = await connect(new after.EntityManagerFactory({ host: url }));
    assert.equal(again.User.me?.id, '/db/User/1');
    assert.deepEqual(sent, [], 'the token went with the form');
  });
});
