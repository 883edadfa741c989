// node-redis with its defaults: RESP3 handshake, multi-command flush, scan iterator.
const assert = require('node:assert');
const { createClient } = require('redis');

const pki = process.env.KVNODE_TEST_PKI;
const file = (name) => require('node:fs').readFileSync(`${pki}/${name}`);
const tls = pki === undefined ? undefined : { ca: file('ca.crt'), cert: file('app.crt'), key: file('app.key') };

async function main(host, port) {
  const client = createClient({ socket: { host, port: Number(port), tls: tls !== undefined, ...tls } });
  client.on('error', (error) => {
    throw error;
  });
  await client.connect();
  await client.flushDb();
  assert.equal(await client.set('k', 'v'), 'OK');
  assert.equal(await client.get('k'), 'v');
  assert.equal(await client.get('missing'), null);
  await client.mSet([['a', '1'], ['b', '2']]);
  assert.deepEqual(await client.mGet(['a', 'b', 'missing']), ['1', '2', null]);
  const replies = await Promise.all(
    Array.from({ length: 1000 }, (_, n) => Promise.all([client.set(`p:${n}`, String(n)), client.get(`p:${n}`)])),
  );
  replies.forEach(([set, get], n) => assert.deepEqual([set, get], ['OK', String(n)]));
  const found = new Set();
  for await (const keys of client.scanIterator({ MATCH: 'p:*', COUNT: 100 })) [].concat(keys).forEach((key) => found.add(key));
  assert.equal(found.size, 1000);
  assert.equal((await client.keys('p:*')).length, 1000);
  assert.equal(await client.del(['a', 'b', 'missing']), 2);
  await assert.rejects(client.sendCommand(['NOSUCH']), /unknown command/);
  await client.flushAll();
  assert.equal(await client.dbSize(), 0);
  await client.close();
  console.log('ok');
}

main(process.argv[2], process.argv[3]).catch((error) => {
  console.error(error);
  process.exit(1);
});
