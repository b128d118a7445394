// The published SDK against a running cluster: what a web app does, at each node.
//
// LARDER_URLS lists the nodes with their base path: http://127.0.0.1:7400/v1,http://127.0.0.1:7410/v1,…
// Root's password is `root`, as `larder dev` sets it.

import assert from 'node:assert/strict';
import { describe, it, before } from 'node:test';
import { EntityManagerFactory, intersection, metamodel } from 'baqend';

const urls = (process.env.LARDER_URLS ?? 'http://127.0.0.1:7400/v1,http://127.0.0.1:7410/v1,http://127.0.0.1:7420/v1').split(',');

/** A client of its own, as another browser would be: connections are shared, tokens are not. */
async function connect(url) {
  const factory = new EntityManagerFactory({ host: url, tokenStorage: new intersection.TokenStorage(url) });
  await factory.ready();
  return factory.createEntityManager(true).ready();
}

/** The status of the error that a call must end with. */
async function refusal(promise) {
  const error = await promise.then(() => assert.fail('this must be refused'), (e) => e);
  assert.ok(error.status, `an error with a status, not ${error}`);
  return error;
}

for (const [index, url] of urls.entries()) {
  const elsewhere = urls[(index + 1) % urls.length];
  const name = `Todo${index}`;

  describe(`the SDK at ${url}`, () => {
    let root;
    let app;
    let other;

    before(async () => {
      root = await connect(url);
    });

    it('connects without a session', async () => {
      assert.equal(root.User.me, null);
      assert.equal(root.token, null);
      assert.ok(root.metamodel.entity('User'), 'the system classes are there');
      assert.ok(root.metamodel.entity('Role'));
      assert.ok(root.metamodel.entity('Device'));
      assert.ok(root.metamodel.entity('Demo'));
    });

    it('refuses a wrong password', async () => {
      const error = await refusal(root.User.login('root', 'wrong'));
      assert.equal(error.status, 460);
      assert.equal(root.User.me, null);
    });

    it('logs in as root', async () => {
      const user = await root.User.login('root', 'root');
      assert.equal(user.id, '/db/User/1');
      assert.equal(user.username, 'root');
      assert.equal(root.User.me, user);
      assert.ok(root.token.length >= 62);
    });

    it('saves a class to the schema', async () => {
      const { EntityType, SingularAttribute, ListAttribute, MapAttribute } = metamodel;
      const model = root.metamodel;
      const type = new EntityType(`/db/${name}`, model.entity('Object'));
      model.addType(type);
      type.addAttribute(new SingularAttribute('title', model.baseType(String)));
      type.addAttribute(new SingularAttribute('count', model.baseType('Integer')));
      type.addAttribute(new SingularAttribute('done', model.baseType(Boolean)));
      type.addAttribute(new SingularAttribute('due', model.baseType('DateTime')));
      type.addAttribute(new SingularAttribute('next', type));
      type.addAttribute(new ListAttribute('tags', model.baseType(String)));
      type.addAttribute(new MapAttribute('marks', model.baseType(String), model.baseType('Integer')));
      await model.save();
      // The whole model goes back and forth without losing the server's own classes.
      assert.ok(model.entity(`/db/${name}`));
      assert.ok(model.entity('User').getAttribute('username'));
    });

    it('connects again, with and without a session', async () => {
      const token = root.token;
      const storage = new intersection.TokenStorage(url, token);
      const factory = new EntityManagerFactory({ host: url, tokenStorage: storage });
      await factory.ready();
      const known = await factory.createEntityManager(true).ready();
      assert.equal(known.User.me.id, '/db/User/1', 'a token that is kept logs in');
      app = await connect(url);
      other = await connect(elsewhere);
      assert.equal(app.User.me, null);
      assert.ok(app[name], 'the new class is in the schema of the next connect');
      assert.ok(other[name], 'also at another node');
    });

    it('inserts and loads', async () => {
      const due = new Date('2026-03-04T05:06:07.089Z');
      const todo = new app[name]({
        title: 'größe 😀', count: 3, done: false, due, tags: ['a', 'b'], marks: new Map([['x', 1]]),
      });
      await todo.insert();
      assert.equal(todo.version, 1);
      assert.ok(todo.createdAt instanceof Date && todo.updatedAt instanceof Date);
      const loaded = await other[name].load(todo.id);
      assert.equal(loaded.version, 1);
      assert.equal(loaded.title, 'größe 😀');
      assert.equal(loaded.count, 3);
      assert.equal(loaded.done, false);
      assert.equal(loaded.due.getTime(), due.getTime());
      assert.deepEqual([...loaded.tags], ['a', 'b']);
      assert.equal(loaded.marks.get('x'), 1);
      assert.equal(loaded.acl.isPublicReadAllowed(), true);
    });

    it('refuses a second insert of an id', async () => {
      const first = new app[name]({ id: 'a key/with {odd} parts', title: 'first' });
      await first.insert();
      const second = new other[name]({ id: 'a key/with {odd} parts', title: 'second' });
      assert.equal((await refusal(second.insert())).status, 409);
      assert.equal((await app[name].load('a key/with {odd} parts', { refresh: true })).title, 'first');
    });

    it('updates, and tells a conflict', async () => {
      const mine = await new app[name]({ title: 'one' }).save();
      const yours = await other[name].load(mine.id);
      mine.title = 'two';
      await mine.update();
      assert.equal(mine.version, 2);
      yours.title = 'late';
      const error = await refusal(yours.update());
      assert.equal(error.status, 412);
      assert.equal((await refusal(yours.save())).status, 412);
      await yours.load({ refresh: true });
      assert.equal(yours.title, 'two');
      yours.title = 'three';
      await yours.save();
      assert.equal(yours.version, 3);
    });

    it('solves a conflict by optimistic saving', async () => {
      const mine = await new app[name]({ count: 0 }).save();
      const yours = await other[name].load(mine.id);
      await Promise.all([mine, yours].map(async (todo) => {
        for (let turn = 0; turn < 5; turn += 1) {
          await todo.optimisticSave((current) => { current.count += 1; });
        }
      }));
      const end = await app[name].load(mine.id, { refresh: true });
      assert.equal(end.count, 10, 'each of ten additions counts');
      assert.equal(end.version, 11);
    });

    it('saves by force', async () => {
      const mine = await new app[name]({ title: 'one' }).save();
      const yours = await other[name].load(mine.id);
      mine.title = 'two';
      await mine.save();
      yours.title = 'forced';
      await yours.save({ force: true });
      assert.equal(yours.version, 3);
      mine.title = 'forced too';
      await mine.update({ force: true });
      assert.equal(mine.version, 4);
      const upsert = new app[name]({ id: `upsert-${index}`, title: 'upsert' });
      await upsert.save({ force: true });
      assert.equal(upsert.version, 1);
    });

    it('deletes, and loads null', async () => {
      const mine = await new app[name]({ title: 'gone' }).save();
      const yours = await other[name].load(mine.id);
      mine.title = 'still here';
      await mine.save();
      assert.equal((await refusal(yours.delete())).status, 412);
      await mine.delete();
      assert.equal(await app[name].load(mine.id), null);
      assert.equal(await other[name].load(yours.id, { refresh: true }), null);
      await yours.delete({ force: true });
    });

    it('keeps versions growing over a delete', async () => {
      const mine = await new app[name]({ id: 'again', title: 'first' }).save();
      await mine.delete();
      const again = await new app[name]({ id: 'again', title: 'second' }).save();
      assert.ok(again.version > 2, `version ${again.version}`);
      assert.equal((await other[name].load('again')).title, 'second');
    });

    it('follows references', async () => {
      const last = new app[name]({ title: 'last' });
      const first = new app[name]({ title: 'first', next: last });
      await first.save({ depth: true });
      const loaded = await other[name].load(first.id, { depth: true });
      assert.equal(loaded.next.title, 'last');
    });

    it('protects what is root\'s', async () => {
      const admin = await connect(url);
      await admin.User.login('root', 'root');
      const secret = new admin[name]({ title: 'secret' });
      secret.acl.allowReadAccess(admin.User.me).allowWriteAccess(admin.User.me);
      await secret.save();
      assert.equal(await app[name].load(secret.id), null);
      assert.equal((await admin[name].load(secret.id, { refresh: true })).title, 'secret');
      assert.equal((await refusal(app.metamodel.save())).status, 466, 'the schema is root\'s');
    });

    it('renews and logs out', async () => {
      const me = await root.User.me.load({ refresh: true });
      assert.equal(me.username, 'root');
      const renewed = await root.renew();
      assert.equal(renewed.id, '/db/User/1');
      await root.User.logout();
      assert.equal(root.User.me, null);
      assert.equal(root.token, null);
      assert.equal((await refusal(root.metamodel.save())).status, 466);
    });
  });
}
