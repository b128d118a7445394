// The life of a user through the published SDK: register, log in, renew, another password, roles, log out.
//
// LARDER_URLS as in sdk.test.mjs.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { EntityManagerFactory, intersection } from 'baqend';

const urls = (process.env.LARDER_URLS ?? 'http://127.0.0.1:7400/v1,http://127.0.0.1:7410/v1,http://127.0.0.1:7420/v1').split(',');

async function connect(url) {
  const factory = new EntityManagerFactory({ host: url, tokenStorage: new intersection.TokenStorage(url) });
  await factory.ready();
  return factory.createEntityManager(true).ready();
}

const status = (promise) => promise.then(() => null, (error) => error.status ?? String(error));

/** Waits until every node has heard of something: it may take the bound. */
async function eventually(what, condition) {
  const end = Date.now() + 30_000;
  while (Date.now() < end) {
    if (await condition()) {
      return;
    }
    await new Promise((resolve) => { setTimeout(resolve, 20); });
  }
  assert.fail(what);
}

for (const [index, url] of urls.entries()) {
  const name = `user ${index} <ü>@example.com`;
  const other = urls[(index + 1) % urls.length];

  describe(`users of the SDK at ${url}`, () => {
    it('registers and is logged in', async () => {
      const db = await connect(url);
      const user = await db.User.register(name, 'first');
      assert.equal(user.username, name);
      assert.equal(db.User.me, user);
      assert.ok(user.acl.isReadAllowed(user) && !user.acl.isPublicReadAllowed());
      assert.equal(await status((await connect(other)).User.register(name, 'x')), 409);
    });

    it('registers without a log-in', async () => {
      const db = await connect(url);
      const user = new db.User({ username: `${name} quiet` });
      await db.User.register(user, 'pw', db.User.LoginOption.NO_LOGIN);
      assert.equal(db.User.me, null);
      assert.equal(db.token, null);
    });

    it('logs in at another node, renews, and stays itself', async () => {
      const db = await connect(other);
      assert.equal(await status(db.User.login(name, 'wrong')), 460);
      const user = await db.User.login(name, 'first');
      assert.equal(user.username, name);
      const { token } = db;
      await db.renew();
      assert.ok(db.token.substring(8, 16) >= token.substring(8, 16));
      assert.equal(db.User.me.id, user.id);
    });

    it('changes its own fields, and not those of admins', async () => {
      const db = await connect(url);
      const user = await db.User.login(name, 'first');
      user.inactive = true;
      await user.save();
      await user.load({ refresh: true });
      assert.ok(!user.inactive);
      const stranger = await connect(other);
      assert.equal(await stranger.User.load(user.id), null);
    });

    it('gets another password, which ends the sessions of before', async () => {
      const [one, two] = [await connect(url), await connect(other)];
      await one.User.login(name, 'first');
      await two.User.login(name, 'first');
      const user = await one.User.newPassword(name, 'first', 'second');
      assert.equal(user.username, name);
      await one.renew();
      await eventually('the other session is over', async () => (await status(two.renew())) === 460);
      assert.equal(two.User.me, null);
      assert.equal(await status((await connect(other)).User.login(name, 'first')), 460);
      await (await connect(other)).User.login(name, 'second');
    });

    it('belongs to a role as long as the role says so', async () => {
      const root = await connect(url);
      await root.User.login('root', 'root');
      const db = await connect(other);
      const user = await db.User.login(name, 'second');
      const role = new root.Role({ name: `role ${index}` });
      role.addUser(await root.User.load(user.id));
      await role.save();
      const secret = new root.Demo({ n: 1 });
      secret.acl.allowReadAccess(role);
      await secret.insert();
      const sees = async () => (await db.Demo.load(secret.id, { refresh: true })) !== null;
      await eventually('the role is heard of', sees);
      role.removeUser(await root.User.load(user.id));
      await role.save();
      await eventually('the role is lost', async () => !(await sees()));
    });

    it('logs out', async () => {
      const db = await connect(url);
      await db.User.login(name, 'second');
      await db.User.logout();
      assert.equal(db.User.me, null);
      assert.equal(db.token, null);
    });
  });
}
