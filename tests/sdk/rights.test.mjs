// The rules of classes through the published SDK: set by its schema calls, felt by its clients.
//
// LARDER_URLS as in sdk.test.mjs.

import assert from 'node:assert/strict';
import { describe, it, before } from 'node:test';
import { EntityManagerFactory, intersection, metamodel } from 'baqend';

const urls = (process.env.LARDER_URLS ?? 'http://127.0.0.1:7400/v1,http://127.0.0.1:7410/v1,http://127.0.0.1:7420/v1').split(',');

async function connect(url) {
  const factory = new EntityManagerFactory({ host: url, tokenStorage: new intersection.TokenStorage(url) });
  await factory.ready();
  return factory.createEntityManager(true).ready();
}

const operations = ['load', 'insert', 'update', 'delete', 'query'];

for (const [index, url] of urls.entries()) {
  const className = (operation) => `Closed${index}${operation}`;

  describe(`class rules of the SDK at ${url}`, () => {
    let root;
    let app;

    before(async () => {
      root = await connect(url);
      await root.User.login('root', 'root');
      const { EntityType, ListAttribute, SingularAttribute } = metamodel;
      const model = root.metamodel;
      for (const operation of operations) {
        const type = new EntityType(`/db/${className(operation)}`, model.entity('Object'));
        model.addType(type);
        type.addAttribute(new SingularAttribute('n', model.baseType('Integer')));
        type.addAttribute(new ListAttribute('tags', model.baseType('String')));
        type[`${operation}Permission`].allowAccess('/db/Role/1');
      }
      await model.save();
      root = await connect(url);
      await root.User.login('root', 'root');
      app = await connect(urls[(index + 1) % urls.length]);
    });

    /** What the calls of a web app end with: null, or the status. */
    async function outcomes(db, operation) {
      const name = className(operation);
      const mine = await new root[name]({ n: 1, tags: ['a'] }).insert();
      const outcome = (promise) => promise.then(() => null, (error) => error.status ?? String(error));
      let turn = 1;
      const known = () => {
        const object = db[name].fromJSON({ ...mine.toJSON(), version: mine.version });
        turn += 1;
        object.n = turn;
        return object;
      };
      const loaded = await outcome(db[name].load(mine.id, { refresh: true }));
      const inserted = await outcome(new db[name]({ n: 3 }).insert());
      const listed = await outcome(db[name].find().equal('n', 1).resultList());
      const one = await outcome(db[name].find().singleResult());
      const counted = await outcome(db[name].find().count());
      const updated = await outcome(known().update({ force: true }));
      const partial = await outcome(known().partialUpdate().increment('n').execute());
      const upserted = await outcome(known().save({ force: true }));
      const deleted = await outcome(known().delete({ force: true }));
      return { load: [loaded], insert: [inserted], query: [listed, one, counted], update: [updated, partial], upsert: [upserted], delete: [deleted] };
    }

    for (const closed of operations) {
      it(`${closed} for admins alone`, async () => {
        const found = await outcomes(app, closed);
        for (const [operation, statuses] of Object.entries(found)) {
          const refused = operation === closed || (operation === 'upsert' && ['insert', 'update'].includes(closed));
          assert.deepEqual(new Set(statuses), new Set([refused ? 466 : null]), `${operation}: ${statuses}`);
        }
        const admin = await outcomes(root, closed);
        assert.deepEqual(new Set(Object.values(admin).flat()), new Set([null]), JSON.stringify(admin));
      });
    }
  });
}
