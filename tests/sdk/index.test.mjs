// Indexes by the metamodel of the published SDK, at each node.
//
// LARDER_URLS as in sdk.test.mjs.

import assert from 'node:assert/strict';
import { describe, it, before } from 'node:test';
import { EntityManagerFactory, intersection, metamodel } from 'baqend';

const urls = (process.env.LARDER_URLS ?? 'http://127.0.0.1:7400/v1,http://127.0.0.1:7410/v1,http://127.0.0.1:7420/v1').split(',');
const { DbIndex } = metamodel;

async function connect(url) {
  const factory = new EntityManagerFactory({ host: url, tokenStorage: new intersection.TokenStorage(url) });
  await factory.ready();
  return factory.createEntityManager(true).ready();
}

for (const [at, url] of urls.entries()) {
  const name = `Indexed${at}`;

  describe(`indexes of the SDK at ${url}`, () => {
    let root;
    let model;

    before(async () => {
      root = await connect(url);
      await root.User.login('root', 'root');
      model = root.metamodel;
      const type = new metamodel.EntityType(`/db/${name}`, model.entity('Object'));
      model.addType(type);
      for (const [field, of] of Object.entries({ title: String, year: 'Integer', place: 'GeoPoint' })) {
        type.addAttribute(new metamodel.SingularAttribute(field, model.baseType(of)));
      }
      await model.save();
    });

    it('are made, loaded, dropped one by one and all at once', async () => {
      assert.deepEqual(await model.getIndexes(name), []);
      const wanted = [
        new DbIndex('title'),
        new DbIndex([{ year: DbIndex.DESC }, { title: DbIndex.ASC }]),
        new DbIndex({ place: 'geo' }),
        new DbIndex('title', true),
      ];
      for (const index of wanted) {
        await model.createIndex(name, index);
      }
      const loaded = await model.getIndexes(name);
      assert.ok(loaded.every((index) => index instanceof DbIndex));
      assert.deepEqual(loaded.map((index) => index.toJSON()), wanted.map((index) => index.toJSON()));
      assert.deepEqual(loaded.map((index) => index.isUnique), [false, false, false, true]);
      await model.dropIndex(name, wanted[0]);
      assert.equal((await model.getIndexes(name)).length, 3);
      await model.dropAllIndexes(name);
      assert.deepEqual(await model.getIndexes(name), []);
    });

    it('of an unknown class are none', async () => {
      assert.equal(await model.getIndexes('Nothing'), null);
    });

    it('are the business of admins', async () => {
      const nobody = await connect(url);
      await assert.rejects(nobody.metamodel.createIndex(name, new DbIndex('title')), { status: 466 });
    });
  });
}
