// Partial updates by the published SDK: each operation of its builder on each type that has it, at each node.

import assert from 'node:assert/strict';
import { describe, it, before } from 'node:test';
import { EntityManagerFactory, intersection, metamodel } from 'baqend';

const urls = (process.env.LARDER_URLS ?? 'http://127.0.0.1:7400/v1,http://127.0.0.1:7410/v1,http://127.0.0.1:7420/v1').split(',');

async function connect(url) {
  const factory = new EntityManagerFactory({ host: url, tokenStorage: new intersection.TokenStorage(url) });
  await factory.ready();
  return factory.createEntityManager(true).ready();
}

for (const [index, url] of urls.entries()) {
  const name = `Updated${index}`;

  describe(`partial updates at ${url}`, () => {
    let app;
    let other;

    before(async () => {
      const root = await connect(url);
      await root.User.login('root', 'root');
      const { EntityType, SingularAttribute, ListAttribute, SetAttribute, MapAttribute } = metamodel;
      const model = root.metamodel;
      const type = new EntityType(`/db/${name}`, model.entity('Object'));
      model.addType(type);
      const base = (of) => model.baseType(of);
      for (const [field, of] of Object.entries({
        text: String, flag: Boolean, whole: 'Integer', real: 'Double', at: 'DateTime', day: 'Date', hour: 'Time',
        place: 'GeoPoint', json: 'JsonObject', items: 'JsonArray',
      })) {
        type.addAttribute(new SingularAttribute(field, base(of)));
      }
      type.addAttribute(new SingularAttribute('next', type));
      type.addAttribute(new ListAttribute('list', base(String)));
      type.addAttribute(new ListAttribute('others', type));
      type.addAttribute(new SetAttribute('set', base('Integer')));
      type.addAttribute(new MapAttribute('map', base(String), base('Integer')));
      await model.save();
      app = await connect(url);
      other = await connect(urls[(index + 1) % urls.length]);
    });

    /** Updates a fresh object, and checks that every node shows what the SDK took over. */
    async function update(members, build) {
      const object = await new app[name](members).insert();
      const updated = await build(object.partialUpdate()).execute();
      assert.equal(updated, object);
      assert.equal(object.version, 2);
      const loaded = await other[name].load(object.id);
      assert.equal(loaded.version, 2);
      assert.deepEqual(loaded.toJSON({ excludeMetadata: true }), object.toJSON({ excludeMetadata: true }));
      return object;
    }

    it('sets values of each type', async () => {
      const next = await new app[name]({ text: 'next' }).insert();
      const at = new Date('2026-03-04T05:06:07.000Z');
      const { GeoPoint } = await import('baqend');
      const object = await update({}, (builder) => builder
        .set('text', 'é').set('flag', true).set('whole', 7).set('real', 1.5).set('at', at)
        .set('place', new GeoPoint(53.5, 10)).set('json', { a: [1] }).set('items', [1, 'x'])
        .set('next', next).set('list', ['a']).set('set', new Set([1, 2])).set('map', new Map([['k', 1]])));
      assert.equal(object.text, 'é');
      assert.equal(object.flag, true);
      assert.equal(object.whole, 7);
      assert.equal(object.real, 1.5);
      assert.equal(object.at.getTime(), at.getTime());
      assert.equal(object.place.latitude, 53.5);
      assert.deepEqual(object.json, { a: [1] });
      assert.deepEqual(object.items, [1, 'x']);
      assert.equal(object.next, next, 'a loaded object is a reference');
      assert.deepEqual([...object.list], ['a']);
      assert.deepEqual([...object.set].sort(), [1, 2]);
      assert.deepEqual([...object.map], [['k', 1]]);
    });

    it('computes numbers', async () => {
      for (const [build, whole, real] of [
        [(b) => b.inc('whole').inc('real', 0.5), 13, 2],
        [(b) => b.increment('whole', 8).increment('real'), 20, 2.5],
        [(b) => b.dec('whole').decrement('real', 1), 11, 0.5],
        [(b) => b.mul('whole', 3).multiply('real', 2), 36, 3],
        [(b) => b.div('whole', 3).divide('real', 2), 4, 0.75],
        [(b) => b.min('whole', 5).max('real', 5), 5, 5],
        [(b) => b.atMost('whole', 99).atLeast('real', 9), 12, 9],
        [(b) => b.and('whole', 10), 8, 1.5],
        [(b) => b.or('whole', 3), 15, 1.5],
        [(b) => b.xor('whole', 6), 10, 1.5],
      ]) {
        const object = await update({ whole: 12, real: 1.5 }, build);
        assert.deepEqual([object.whole, object.real], [whole, real], String(build));
      }
    });

    it('changes lists, sets, maps and times', async () => {
      const element = await new app[name]({}).insert();
      // Made anew for each: the client changes the lists that it was given.
      const lists = () => ({ list: ['a', 'b', 'a'], set: new Set([1]), map: new Map([['k', 1]]), others: [] });
      for (const [build, read, expected] of [
        [(b) => b.push('list', 'c'), (o) => o.list, ['a', 'b', 'a', 'c']],
        [(b) => b.unshift('list', 'c'), (o) => o.list, ['c', 'a', 'b', 'a']],
        [(b) => b.pop('list'), (o) => o.list, ['a', 'b']],
        [(b) => b.shift('list'), (o) => o.list, ['b', 'a']],
        [(b) => b.remove('list', 'a'), (o) => o.list, ['b']],
        [(b) => b.replace('list', 0, 'x').replace('list', 2, 'z'), (o) => o.list, ['x', 'b', 'z']],
        [(b) => b.push('others', element), (o) => o.others.map((one) => one.id), [element.id]],
        [(b) => b.add('set', 2), (o) => o.set, [1, 2]],
        [(b) => b.add('set', 1), (o) => o.set, [1]],
        [(b) => b.remove('set', 1), (o) => o.set, []],
        [(b) => b.put('map', 'l', 2), (o) => o.map.keys(), ['k', 'l']],
        [(b) => b.put('map', { k: 3 }), (o) => o.map.values(), [3]],
        [(b) => b.remove('map', 'k'), (o) => o.map.keys(), []],
        [(b) => b.currentDate('at'), (o) => [o.at.getTime()], null],
        [(b) => b.currentDate('day').currentDate('hour'), (o) => [o.day && o.hour && true], [true]],
      ]) {
        const object = await update(lists(), build);
        assert.deepEqual([...read(object)], expected ?? [object.updatedAt.getTime()], String(build));
      }
    });

    it('refuses what does not fit, and leaves the object as it is', async () => {
      const object = await new app[name]({ text: 'x', whole: 1 }).insert();
      const refused = await object.partialUpdate().increment('text').execute().then(() => null, (error) => error);
      assert.equal(refused?.status, 400);
      const type = await object.partialUpdate().set('whole', 'y').execute().then(() => null, (error) => error);
      assert.equal(type?.status, 463);
      assert.equal((await other[name].load(object.id)).version, 1);
    });
  });
}
