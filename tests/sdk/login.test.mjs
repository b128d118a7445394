// The second factor and API tokens through the published SDK.
//
// LARDER_URLS as in sdk.test.mjs.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, it } from 'node:test';
import { EntityManagerFactory, intersection } from 'baqend';

const urls = (process.env.LARDER_URLS ?? 'http://127.0.0.1:7400/v1,http://127.0.0.1:7410/v1,http://127.0.0.1:7420/v1').split(',');

async function connect(url) {
  const factory = new EntityManagerFactory({ host: url, tokenStorage: new intersection.TokenStorage(url) });
  await factory.ready();
  return factory.createEntityManager(true).ready();
}

const failure = (promise) => promise.then(() => assert.fail('it went through'), (error) => error);

/** The code of an authenticator app, some steps from now. */
function code(keyUri, steps = 0) {
  const secret = new URL(keyUri).searchParams.get('secret');
  const bits = [...secret].map((letter) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(letter).toString(2).padStart(5, '0')).join('');
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
  const digest = createHmac('sha1', key).update(counter).digest();
  return (digest.readUInt32BE(digest[19] & 15) & 0x7fffffff) % 1_000_000;
}

for (const [index, url] of urls.entries()) {
  const name = `login ${index}`;
  const other = urls[(index + 1) % urls.length];

  describe(`ways to log in of the SDK at ${url}`, () => {
    it('asks for a code of the second factor', async () => {
      const db = await connect(url);
      await db.User.register(name, 'pw');
      assert.equal(await db.getMFAStatus(), 'DISABLED');
      const { qrCode, keyUri } = await db.initMFA();
      assert.match(qrCode, /^data:image\/png;base64,/);
      assert.equal(await db.getMFAStatus(), 'PENDING');
      const first = code(keyUri);
      const me = await db.finishMFA(first);
      assert.equal(me.username, name);
      assert.equal(await db.getMFAStatus(), 'ENABLED');

      const second = await connect(other);
      const error = await failure(second.User.login(name, 'pw'));
      assert.equal(error.constructor.name, 'MFAError');
      assert.equal(second.User.me, null);
      assert.equal((await failure(second.submitMFACode(first, error.token))).status, 460);
      const user = await second.submitMFACode(code(keyUri, 1), error.token);
      assert.equal(user.username, name);
      assert.equal(second.User.me, user);
      await second.disableMFA();
      assert.equal(await db.getMFAStatus(), 'DISABLED');
    });

    it('makes API tokens and revokes them', async () => {
      const root = await connect(url);
      await root.User.login('root', 'root');
      const user = await root.User.register(new root.User({ username: `${name} api` }), 'pw', root.User.LoginOption.NO_LOGIN);
      const { token } = await root.User.requestAPIToken(user);
      const program = await connect(other);
      program.token = token;
      assert.equal((await program.renew()).id, user.id);
      assert.equal(program.token, token);
      await root.User.revokeAllTokens(user);
      const again = await connect(url);
      again.token = token;
      assert.equal((await failure(again.renew())).status, 460);
    });
  });
}
