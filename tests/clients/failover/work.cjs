// ioredis and node-redis at work while a leader is killed. See failover.rs for what is written and read on the way.
const assert = require('node:assert');

const UNLOCK =
  "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

function ioredis(host, port) {
  const Redis = require('ioredis').default ?? require('ioredis');
  const client = new Redis({ host, port });
  client.on('error', () => {});
  return {
    set: (key, value) => client.set(key, value, 'EX', 1000),
    get: (key) => client.get(key),
    pair: async (a, b, value) => (await client.multi().set(a, value).set(b, value).exec()).map(([error, reply]) => error ?? reply),
    lock: (key, owner) => client.set(key, owner, 'PX', 10000, 'NX'),
    unlock: (key, owner) => client.eval(UNLOCK, 1, key, owner),
    close: () => client.quit(),
  };
}

async function nodeRedis(host, port) {
  const client = require('redis').createClient({ url: `redis://${host}:${port}` });
  client.on('error', () => {});
  await client.connect();
  return {
    set: (key, value) => client.set(key, value, { EX: 1000 }),
    get: (key) => client.get(key),
    pair: (a, b, value) => client.multi().set(a, value).set(b, value).exec(),
    lock: (key, owner) => client.set(key, owner, { PX: 10000, NX: true }),
    unlock: (key, owner) => client.eval(UNLOCK, { keys: [key], arguments: [owner] }),
    close: () => client.close(),
  };
}

async function main(name, library, host, port) {
  const client = await (library === 'ioredis' ? ioredis : nodeRedis)(host, Number(port));
  let stop = false;
  process.stdin.on('end', () => { stop = true; }).resume();
  const acknowledged = [];
  let failed = 0;
  for (let n = 1; !stop; n += 1) {
    const value = String(n);
    try {
      assert.equal(await client.set(`${name}:${n}`, value), 'OK');
      acknowledged.push(n);
      assert.equal(await client.get(`${name}:${n}`), value);
      assert.deepEqual(await client.pair(`${name}:a`, `${name}:b`, value), ['OK', 'OK']);
      if (await client.lock(`${name}:lock`, value)) await client.unlock(`${name}:lock`, value);
      console.log(`round ${n}`);
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      failed += 1;
      console.error(`round ${n}: ${error}`);
    }
  }
  for (const n of acknowledged) assert.equal(await client.get(`${name}:${n}`), String(n), `${name}:${n} is lost`);
  assert.equal(await client.get(`${name}:a`), await client.get(`${name}:b`));
  console.log(`ok ${acknowledged.length} ${failed}`);
  await client.close();
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
