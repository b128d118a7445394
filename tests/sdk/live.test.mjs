// The streams of the SDK's last release that has them, unmodified: event streams and result streams, at each node.
//
// LARDER_URLS as in sdk.test.mjs.

import assert from 'node:assert/strict';
import { describe, it, before, after } from 'node:test';
import { EntityManagerFactory, intersection, metamodel } from 'baqend3';

const urls = (process.env.LARDER_URLS ?? 'http://127.0.0.1:7400/v1,http://127.0.0.1:7410/v1,http://127.0.0.1:7420/v1').split(',');

async function connect(url) {
  const factory = new EntityManagerFactory({ host: url, tokenStorage: new intersection.TokenStorage(url) });
  await factory.ready();
  return factory.createEntityManager(true).ready();
}

/** What a stream tells, to be waited for. */
class Told {
  constructor(stream) {
    this.all = [];
    this.waiting = [];
    this.error = null;
    const look = () => {
      this.waiting = this.waiting.filter(({ holds, done }) => !(holds() && (done(), true)));
    };
    this.subscription = stream.subscribe((one) => {
      this.all.push(one);
      look();
    }, (error) => {
      this.error = error;
      look();
    });
  }

  get last() {
    return this.all[this.all.length - 1];
  }

  /** Waits until `holds` does. */
  until(holds, what) {
    if (holds()) return Promise.resolve();
    return new Promise((done, fail) => {
      const late = setTimeout(() => fail(new Error(`waited in vain for ${what}: ${this.all.length} told`)), 20_000);
      this.waiting.push({ holds, done: () => { clearTimeout(late); done(); } });
    });
  }

  /** Waits for the result with these names, in order. */
  names(...names) {
    const holds = () => this.last && JSON.stringify(this.last.map((one) => one.name)) === JSON.stringify(names);
    return this.until(holds, `the result ${names}`);
  }

  /** Waits until so much was told. */
  count(count) {
    return this.until(() => this.all.length >= count, `${count} events`);
  }

  end() {
    this.subscription.unsubscribe();
  }
}

for (const [index, url] of urls.entries()) {
  const className = `Person${index}`;

  describe(`streams of the SDK at ${url}`, () => {
    let db;
    let other;
    let root;

    before(async () => {
      root = await connect(url);
      await root.User.login('root', 'root');
      const { EntityType, SingularAttribute } = metamodel;
      const model = root.metamodel;
      const type = new EntityType(`/db/${className}`, model.entity('Object'));
      model.addType(type);
      for (const [field, of] of Object.entries({ name: String, age: 'Integer', test: String })) {
        type.addAttribute(new SingularAttribute(field, model.baseType(of)));
      }
      await model.save();
      db = await connect(url);
      // Writes go through another node.
      other = await connect(urls[(index + 1) % urls.length]);
      root = await connect(url);
      await root.User.login('root', 'root');
    });

    after(() => {
      for (const one of [db, root]) one.entityManagerFactory.websocket.close();
    });

    const person = (test, name, age, manager = other) => new manager[className]({ name, age, test });

    it('an event stream tells what happens', async () => {
      // Nothing else says when a subscription has begun.
      await person('events', 'first', 1).insert();
      const told = new Told(db[className].find().equal('test', 'events').eventStream());
      await told.count(1);
      const felix = person('events', 'Felix', 29);
      await felix.insert();
      await told.count(2);
      felix.name = 'Flo';
      await felix.save();
      await told.count(3);
      await felix.delete();
      await told.count(4);
      assert.deepEqual(told.all.map((one) => [one.matchType, one.operation, one.initial]), [
        ['add', 'none', true], ['add', 'insert', false], ['change', 'update', false], ['remove', 'delete', false]]);
      assert.ok(told.last.date.getTime());
      assert.equal(told.last.data.version, null, 'what is deleted has no version');
      told.end();
    });

    it('an event stream begins with the result, and tells what was chosen', async () => {
      await person('chosen', 'Al', 1).insert();
      const all = new Told(db[className].find().equal('test', 'chosen').eventStream());
      await all.count(1);
      assert.deepEqual([all.last.matchType, all.last.operation, all.last.initial], ['add', 'none', true]);
      const matches = new Told(db[className].find().equal('test', 'chosen').eventStream({ matchTypes: 'match' }));
      await matches.until(() => matches.all.length === 1, 'the result');
      await person('chosen', 'Bob', 2).insert();
      await matches.count(2);
      assert.deepEqual([matches.last.matchType, matches.last.operation, matches.last.data.name], ['match', 'insert', 'Bob']);
      all.end();
      matches.end();
    });

    it('a result stream maintains itself', async () => {
      const told = new Told(db[className].find().equal('test', 'result').resultStream());
      await told.names();
      const al = person('result', 'Al', 1);
      await al.insert();
      await told.names('Al');
      al.name = 'Alvin';
      await al.update();
      await told.names('Alvin');
      al.test = 'elsewhere';
      await al.update();
      await told.names();
      told.end();
    });

    it('a sorted result stream with offset and limit maintains itself', async () => {
      const window = db[className].find().equal('test', 'window').ascending('age').offset(1).limit(3);
      const told = new Told(window.resultStream());
      await told.names();
      const people = {};
      for (const [name, age] of [['a', 10], ['b', 20], ['c', 30], ['d', 40], ['e', 50]]) {
        people[name] = person('window', name, age);
        await people[name].insert();
      }
      await told.names('b', 'c', 'd');
      people.e.age = 15;
      await people.e.update();
      await told.names('e', 'b', 'c');
      people.b.age = 35;
      await people.b.update();
      await told.names('e', 'c', 'b');
      await people.a.delete();
      await told.names('c', 'b', 'd');
      await people.c.delete();
      await told.names('b', 'd');
      told.end();
    });

    it('a result stream shows what its user may read', async () => {
      const query = (manager) => manager[className].find().equal('test', 'own').ascending('age').resultStream();
      const [theirs, roots] = [new Told(query(db)), new Told(query(root))];
      await theirs.names();
      await roots.names();
      const secret = person('own', 'secret', 1, root);
      secret.acl.allowReadAccess(root.User.me);
      await secret.insert();
      await person('own', 'open', 2).insert();
      await roots.names('secret', 'open');
      await theirs.names('open');
      secret.acl.deleteReadAccess(root.User.me);
      await secret.update();
      await theirs.names('secret', 'open');
      theirs.end();
      roots.end();
    });

    it('a subscription that is refused is an error of its stream', async () => {
      const refused = new Told(db[className].find().ascending('name').offset(500).limit(1).eventStream());
      await refused.until(() => refused.error, 'an error');
      assert.equal(refused.error.status, 468);
      assert.equal(refused.all.length, 0);
    });

    it('a result stream goes on after its socket was closed', async () => {
      const told = new Told(db[className].find().equal('test', 'again').resultStream());
      await told.names();
      db.entityManagerFactory.websocket.close();
      await person('again', 'back', 1).insert();
      await told.names('back');
      told.end();
    });
  });
}
