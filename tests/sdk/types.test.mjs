// Values of every type there and back through the published SDK: inserted at one node, loaded at another, changed and loaded again.
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

const moment = new Date('2026-03-04T05:06:07.089Z');
const later = new Date('1969-12-31T23:59:59.9Z');
const day = new Date('2020-02-29T00:00:00Z');
const earlierDay = new Date('1815-12-10T00:00:00Z');
const hour = new Date('1970-01-01T04:05:06.7Z');
const midnight = new Date('1970-01-01T00:00:00Z');

/** Types with one value: two values each, which must not be confused, and how they are compared. */
const single = {
  Boolean: [true, false],
  Integer: [7, -9007199254740991],
  Double: [0.1, -1.5e300],
  String: ['größe 😀 "\\\n\u0000', ''],
  DateTime: [moment, later],
  Date: [day, earlierDay],
  Time: [hour, midnight],
  GeoPoint: [new GeoPoint(53.5, 10), new GeoPoint(-90, 180)],
  JsonObject: [{ a: [1, { b: null }], 'c.d': 'e', z: 0.1 }, {}],
  JsonArray: [[1, 'x', [null, { a: [] }], 1.5], []],
};

/** Types of the elements of sets and the keys of maps. */
const keys = {
  Boolean: [true, false],
  Integer: [1, 2, -3],
  Double: [0.5, 1.25],
  String: ['b', 'a', 'ä "quoted"'],
  DateTime: [moment, later],
  Date: [day, earlierDay],
  Time: [hour, midnight],
};

/** What two equal values have in common. */
function plain(value) {
  if (value instanceof Date) return value.toISOString();
  if (value instanceof GeoPoint) return value.toJSON();
  if (value instanceof Map) return [...value].map(([key, of]) => [plain(key), plain(of)]);
  if (value instanceof Set) return [...value].map(plain).sort();
  if (value?.id) return value.id;
  if (Array.isArray(value)) return value.map(plain);
  return value ?? null;
}

for (const [index, url] of urls.entries()) {
  const name = `Typed${index}`;
  const part = `Part${index}`;

  describe(`types of the SDK at ${url}`, () => {
    let app;
    let other;

    before(async () => {
      const root = await connect(url);
      await root.User.login('root', 'root');
      const { EmbeddableType, EntityType, ListAttribute, MapAttribute, SetAttribute, SingularAttribute } = metamodel;
      const model = root.metamodel;
      const embedded = new EmbeddableType(`/db/${part}`);
      model.addType(embedded);
      const type = new EntityType(`/db/${name}`, model.entity('Object'));
      model.addType(type);
      for (const of of Object.keys(single)) {
        type.addAttribute(new SingularAttribute(`one${of}`, model.baseType(of)));
        type.addAttribute(new ListAttribute(`list${of}`, model.baseType(of)));
        type.addAttribute(new MapAttribute(`mapOf${of}`, model.baseType('String'), model.baseType(of)));
      }
      for (const of of Object.keys(keys)) {
        type.addAttribute(new SetAttribute(`set${of}`, model.baseType(of)));
        type.addAttribute(new MapAttribute(`mapBy${of}`, model.baseType(of), model.baseType('Integer')));
      }
      type.addAttribute(new SingularAttribute('file', model.baseType('File')));
      type.addAttribute(new ListAttribute('files', model.baseType('File')));
      type.addAttribute(new SingularAttribute('ref', type));
      type.addAttribute(new ListAttribute('listRef', type));
      type.addAttribute(new SetAttribute('setRef', type));
      type.addAttribute(new MapAttribute('mapRef', type, type));
      embedded.addAttribute(new SingularAttribute('n', model.baseType('Integer')));
      embedded.addAttribute(new SingularAttribute('at', model.baseType('DateTime')));
      embedded.addAttribute(new SingularAttribute('ref', type));
      embedded.addAttribute(new ListAttribute('tags', model.baseType('String')));
      type.addAttribute(new SingularAttribute('emb', embedded));
      type.addAttribute(new ListAttribute('listEmb', embedded));
      type.addAttribute(new MapAttribute('mapEmb', model.baseType('String'), embedded));
      await model.save();
      app = await connect(url);
      other = await connect(urls[(index + 1) % urls.length]);
    });

    /** Inserts `first`, changes to `second`, clears; after each what another node shows must be the same. */
    async function rounds(field, first, second) {
      const object = await new app[name]({ [field]: first }).insert();
      const shown = async (expected) => {
        const loaded = await other[name].load(object.id, { refresh: true });
        assert.deepEqual(plain(loaded[field]), plain(expected), field);
        return loaded;
      };
      const loaded = await shown(first);
      // Classes of files and objects are each client's own.
      if (!first.id) assert.equal(loaded[field]?.constructor, first.constructor, `${field} has its JavaScript type`);
      object[field] = second;
      await object.update();
      await shown(second);
      object[field] = null;
      await object.update();
      await shown(null);
    }

    for (const [of, [first, second]] of Object.entries(single)) {
      it(`${of}, alone, in lists and in maps`, async () => {
        await rounds(`one${of}`, first, second);
        await rounds(`list${of}`, [first, null, second, first], [second]);
        await rounds(`list${of}`, [], [null]);
        await rounds(`mapOf${of}`, new Map([['y', first], ['x', second], ['a.b', null]]), new Map([['x', first]]));
      });
    }

    for (const [of, values] of Object.entries(keys)) {
      it(`${of} in sets and as keys of maps`, async () => {
        await rounds(`set${of}`, new Set(values), new Set(values.slice(1)));
        await rounds(`set${of}`, new Set(), new Set(values));
        const map = new Map(values.map((value, n) => [value, n]));
        await rounds(`mapBy${of}`, map, new Map([[values[1], 9]]));
      });
    }

    it('files', async () => {
      const file = (path) => new app.File(path);
      await rounds('file', file('/file/www/some name/ä.txt'), file('/file/users/1'));
      await rounds('files', [file('/file/www/a'), file('/file/www/b')], [file('/file/www/c')]);
    });

    it('references, also to what is not there', async () => {
      const one = await new app[name]({ id: 'a key/with parts' }).insert();
      const two = app[name].ref('never inserted');
      await rounds('ref', one, two);
      await rounds('listRef', [one, two, one], [two]);
      await rounds('setRef', new Set([one, two]), new Set([two]));
      await rounds('mapRef', new Map([[one, two], [two, one]]), new Map([[two, two]]));
    });

    it('embedded values', async () => {
      const target = await new app[name]({}).insert();
      const made = (n) => new app[part]({ n, at: moment, ref: target, tags: ['a', null] });
      const shown = (value) => [value.n, value.at?.toISOString(), value.ref?.id, value.tags && [...value.tags]];
      const object = await new app[name]({
        emb: made(1), listEmb: [made(2), null, made(3)], mapEmb: new Map([['k', made(4)]]),
      }).insert();
      const loaded = await other[name].load(object.id);
      const expected = (n) => [n, moment.toISOString(), target.id, ['a', null]];
      assert.deepEqual(shown(loaded.emb), expected(1));
      assert.deepEqual(loaded.listEmb.map((value) => value && shown(value)), [expected(2), null, expected(3)]);
      assert.deepEqual([...loaded.mapEmb].map(([key, value]) => [key, shown(value)]), [['k', expected(4)]]);
      loaded.emb.n = 5;
      loaded.listEmb.pop();
      await loaded.update();
      await object.load({ refresh: true });
      assert.equal(object.emb.n, 5);
      assert.equal(object.listEmb.length, 2);
      const found = await app[name].find().equal('emb.n', 5).resultList();
      assert.deepEqual(found.map((one) => one.id), [object.id]);
    });

    it('an expiry that it does not know of survives a save', async () => {
      const object = await new app[name]({ oneInteger: 1 }).insert();
      const path = `${url}${object.id}`;
      const expiresAt = '2999-01-01T00:00:00Z';
      const set = await fetch(path, { method: 'POST', body: JSON.stringify({ $set: { expiresAt } }) });
      assert.equal(set.status, 200);
      assert.equal((await set.json()).expiresAt, expiresAt);
      const loaded = await other[name].load(object.id);
      assert.equal(loaded.expiresAt, undefined, 'the SDK passes over what is no field');
      loaded.oneInteger = 2;
      await loaded.save();
      const stored = await (await fetch(path)).json();
      assert.deepEqual([stored.oneInteger, stored.expiresAt], [2, expiresAt]);
    });
  });
}
