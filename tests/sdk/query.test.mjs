// Queries of the published SDK: every operator of its builder, order and windows, at each node.
//
// LARDER_URLS as in sdk.test.mjs.

import assert from 'node:assert/strict';
import { describe, it, before } from 'node:test';
import { EntityManagerFactory, GeoPoint, intersection, metamodel } from 'baqend';

const urls = (process.env.LARDER_URLS ?? 'http://127.0.0.1:7400/v1,http://127.0.0.1:7410/v1,http://127.0.0.1:7420/v1').split(',');

async function connect(url) {
  const factory = new EntityManagerFactory({ host: url, tokenStorage: new intersection.TokenStorage(url) });
  await factory.ready();
  return factory.createEntityManager(true).ready();
}

/** Points along a meridian, a degree apart. */
const places = [0, 1, 2, 3, 4, 5].map((latitude) => [latitude, 10]);

for (const [index, url] of urls.entries()) {
  const name = `Item${index}`;

  describe(`queries of the SDK at ${url}`, () => {
    let app;

    before(async () => {
      const root = await connect(url);
      await root.User.login('root', 'root');
      const { EntityType, SingularAttribute, ListAttribute } = metamodel;
      const model = root.metamodel;
      const type = new EntityType(`/db/${name}`, model.entity('Object'));
      model.addType(type);
      for (const [field, of] of Object.entries({
        text: String, n: 'Integer', x: 'Double', flag: Boolean, due: 'DateTime', place: 'GeoPoint', meta: 'JsonObject',
      })) {
        type.addAttribute(new SingularAttribute(field, model.baseType(of)));
      }
      type.addAttribute(new ListAttribute('tags', model.baseType(String)));
      type.addAttribute(new SingularAttribute('next', type));
      await model.save();
      // Places are found by an index alone.
      await model.createIndex(name, new metamodel.DbIndex({ place: 'geo' }));
      while ((await (await fetch(`${url}/index/${name}`)).json())[0].state !== 'ready');
      app = await connect(url);
      const first = new app[name]({ id: 'i0' });
      for (let n = 0; n < 6; n += 1) {
        const item = n === 0 ? first : new app[name]({ id: `i${n}` });
        Object.assign(item, {
          text: `text ${n}`,
          n,
          x: n / 2,
          flag: n % 2 === 0,
          due: new Date(Date.UTC(2020, 0, n + 1)),
          place: new GeoPoint(...places[n]),
          tags: ['all', n % 2 === 0 ? 'even' : 'odd', `n${n}`],
          meta: { level: { deep: n } },
          next: n === 5 ? null : first,
        });
        await item.insert();
      }
      await root.User.logout();
    });

    /** The keys that a condition finds, in the order of n unless the query has one. */
    async function found(condition) {
      const list = await condition(app[name].find()).resultList();
      return list.map((item) => item.n);
    }
    const sorted = (condition) => found((query) => condition(query).ascending('n'));

    it('finds everything, and objects are whole', async () => {
      const list = await app[name].find().ascending('n').resultList();
      assert.equal(list.length, 6);
      assert.equal(list[3].version, 1);
      assert.equal(list[3].text, 'text 3');
      assert.deepEqual([...list[3].tags], ['all', 'odd', 'n3']);
      assert.equal(list[3].due.getTime(), Date.UTC(2020, 0, 4));
      assert.equal(list[3].place.latitude, 3);
      assert.equal(list[3].next.id, `/db/${name}/i0`);
    });

    it('equal, notEqual and isNull', async () => {
      assert.deepEqual(await sorted((q) => q.equal('text', 'text 2')), [2]);
      assert.deepEqual(await sorted((q) => q.eq('flag', true)), [0, 2, 4]);
      assert.deepEqual(await sorted((q) => q.notEqual('n', 2)), [0, 1, 3, 4, 5]);
      assert.deepEqual(await sorted((q) => q.isNull('next')), [5]);
      assert.deepEqual(await sorted((q) => q.isNotNull('next')), [0, 1, 2, 3, 4]);
    });

    it('equal on dates, references, embedded paths and ids', async () => {
      assert.deepEqual(await sorted((q) => q.equal('due', new Date(Date.UTC(2020, 0, 2)))), [1]);
      const first = await app[name].load('i0');
      assert.deepEqual(await sorted((q) => q.equal('next', first)), [0, 1, 2, 3, 4]);
      assert.deepEqual(await sorted((q) => q.equal('meta.level.deep', 4)), [4]);
      assert.deepEqual(await sorted((q) => q.equal('id', `/db/${name}/i3`)), [3]);
    });

    it('ranges', async () => {
      assert.deepEqual(await sorted((q) => q.greaterThan('n', 3)), [4, 5]);
      assert.deepEqual(await sorted((q) => q.greaterThanOrEqualTo('x', 1.5)), [3, 4, 5]);
      assert.deepEqual(await sorted((q) => q.lessThan('due', new Date(Date.UTC(2020, 0, 3)))), [0, 1]);
      assert.deepEqual(await sorted((q) => q.lessThanOrEqualTo('text', 'text 1')), [0, 1]);
      assert.deepEqual(await sorted((q) => q.between('n', 1, 4)), [2, 3]);
    });

    it('in, notIn, containsAny, containsAll and size', async () => {
      assert.deepEqual(await sorted((q) => q.in('n', [1, 5, 9])), [1, 5]);
      assert.deepEqual(await sorted((q) => q.notIn('n', [0, 1, 2, 3])), [4, 5]);
      assert.deepEqual(await sorted((q) => q.containsAny('tags', ['n1', 'n2'])), [1, 2]);
      assert.deepEqual(await sorted((q) => q.containsAll('tags', ['all', 'even'])), [0, 2, 4]);
      assert.deepEqual(await sorted((q) => q.size('tags', 3)), [0, 1, 2, 3, 4, 5]);
      assert.deepEqual(await sorted((q) => q.size('tags', 2)), []);
      assert.deepEqual(await sorted((q) => q.equal('tags', 'odd')), [1, 3, 5]);
    });

    it('mod and matches', async () => {
      assert.deepEqual(await sorted((q) => q.mod('n', 3, 1)), [1, 4]);
      assert.deepEqual(await sorted((q) => q.matches('text', /^text [23]/)), [2, 3]);
    });

    it('near and withinPolygon', async () => {
      // A degree of latitude is about 111 km.
      assert.deepEqual(await found((q) => q.near('place', new GeoPoint(3.1, 10), 150000)), [3, 4, 2]);
      const corners = [[1.5, 9], [1.5, 11], [4.5, 11], [4.5, 9]].map(([lat, lng]) => new GeoPoint(lat, lng));
      assert.deepEqual(await sorted((q) => q.withinPolygon('place', corners)), [2, 3, 4]);
    });

    it('and, or, nor', async () => {
      const query = app[name].find();
      const either = query.or(query.equal('n', 1), query.and(query.greaterThan('n', 2), query.equal('flag', true)));
      assert.deepEqual((await either.ascending('n').resultList()).map((item) => item.n), [1, 4]);
      const other = app[name].find();
      const neither = other.nor(other.equal('flag', true), other.equal('n', 1));
      assert.deepEqual((await neither.ascending('n').resultList()).map((item) => item.n), [3, 5]);
      assert.deepEqual(await sorted((q) => q.where({ n: { $not: { $gt: 1 } } })), [0, 1]);
    });

    it('order, limit and offset', async () => {
      assert.deepEqual(await found((q) => q.descending('n')), [5, 4, 3, 2, 1, 0]);
      assert.deepEqual(await found((q) => q.descending('flag').ascending('n')), [0, 2, 4, 1, 3, 5]);
      assert.deepEqual(await found((q) => q.sort({ flag: 1, n: -1 }).offset(1).limit(3)), [3, 1, 4]);
      assert.deepEqual(await found((q) => q.ascending('n').offset(5).limit(10)), [5]);
      assert.deepEqual(await found((q) => q.ascending('n').offset(6)), []);
    });

    it('singleResult and count', async () => {
      const one = await app[name].find().equal('text', 'text 4').singleResult();
      assert.equal(one.n, 4);
      assert.equal(await app[name].find().equal('text', 'none').singleResult(), null);
      assert.equal(await app[name].find().count(), 6);
      assert.equal(await app[name].find().equal('flag', false).count(), 3);
    });

    it('long queries go by POST', async () => {
      const many = Array.from({ length: 500 }, (_, n) => n + 3);
      assert.deepEqual(await sorted((q) => q.in('n', many)), [3, 4, 5]);
      assert.equal(await app[name].find().in('n', many).count(), 3);
    });

    it('what is not read is not found', async () => {
      const admin = await connect(url);
      await admin.User.login('root', 'root');
      const secret = new admin[name]({ id: 'secret', n: 100 });
      secret.acl.allowReadAccess(admin.User.me);
      await secret.insert();
      assert.equal(await admin[name].find().equal('n', 100).count(), 1);
      assert.equal(await app[name].find().equal('n', 100).count(), 0);
      assert.equal(await app[name].find().equal('n', 100).singleResult(), null);
      await secret.delete();
    });

    it('a bad operator is an error with a status', async () => {
      const error = await app[name].find().where({ n: { $where: '1' } }).resultList()
        .then(() => assert.fail('this must be refused'), (e) => e);
      assert.equal(error.status, 468);
    });
  });
}
