// Unique values with the published SDK: its error, and its own way of making indexes.

import assert from 'node:assert/strict';
import { describe, it, before } from 'node:test';
import { EntityManagerFactory, intersection, metamodel } from 'baqend';

const urls = (process.env.LARDER_URLS ?? 'http://127.0.0.1:7400/v1,http://127.0.0.1:7410/v1,http://127.0.0.1:7420/v1').split(',');

async function connect(url) {
  const factory = new EntityManagerFactory({ host: url, tokenStorage: new intersection.TokenStorage(url) });
  await factory.ready();
  return factory.createEntityManager(true).ready();
}

describe('unique values', () => {
  const apps = [];

  before(async () => {
    const root = await connect(urls[0]);
    await root.User.login('root', 'root');
    const { EntityType, SingularAttribute, DbIndex } = metamodel;
    const model = root.metamodel;
    const type = new EntityType('/db/Member', model.entity('Object'));
    model.addType(type);
    type.addAttribute(new SingularAttribute('mail', model.baseType(String)));
    await model.save();
    await model.createIndex('Member', new DbIndex('mail', true));
    for (const url of urls) apps.push(await connect(url));
  });

  it('is a conflict for everybody but the first', async () => {
    const tries = Array.from({ length: 24 }, (_, at) => new apps[at % apps.length].Member({ mail: 'a@example.org' }).insert());
    const results = await Promise.allSettled(tries);
    assert.equal(results.filter((result) => result.status === 'fulfilled').length, 1);
    for (const { status, reason } of results) {
      if (status === 'rejected') {
        assert.equal(reason.status, 409);
        assert.equal(reason.name, 'ObjectExists');
      }
    }
  });
});
