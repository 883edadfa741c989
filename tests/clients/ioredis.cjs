// ioredis with its defaults: HELLO, INFO ready check, auto pipelining by the socket, scan stream.
const assert = require('node:assert');
const Redis = require('ioredis').default ?? require('ioredis');

const pki = process.env.KVNODE_TEST_PKI;
const file = (name) => require('node:fs').readFileSync(`${pki}/${name}`);
const tls = pki === undefined ? undefined : { ca: file('ca.crt'), cert: file('app.crt'), key: file('app.key') };

async function main(host, port) {
  const client = new Redis({ host, port: Number(port), tls });
  await client.flushdb();
  assert.equal(await client.set('k', 'v'), 'OK');
  assert.equal(await client.get('k'), 'v');
  assert.equal(await client.get('missing'), null);
  await client.mset('a', 1, 'b', 2);
  assert.deepEqual(await client.mget('a', 'b', 'missing'), ['1', '2', null]);
  const pipeline = client.pipeline();
  for (let n = 0; n < 1000; n += 1) pipeline.set(`p:${n}`, n).get(`p:${n}`);
  const replies = await pipeline.exec();
  replies.forEach(([error, reply], n) => {
    assert.equal(error, null);
    assert.equal(reply, n % 2 === 0 ? 'OK' : String((n - 1) / 2));
  });
  const found = new Set();
  for await (const keys of client.scanStream({ match: 'p:*', count: 100 })) keys.forEach((key) => found.add(key));
  assert.equal(found.size, 1000);
  assert.equal((await client.keys('p:*')).length, 1000);
  assert.equal(await client.del('a', 'b', 'missing'), 2);
  const bytes = Buffer.from([0, 13, 10, 255]);
  await client.set('bin', bytes);
  assert.deepEqual(await client.getBuffer('bin'), bytes);
  await assert.rejects(client.call('NOSUCH'), /unknown command/);
  await client.flushall();
  assert.equal(await client.dbsize(), 0);
  await client.quit();
  console.log('ok');
}

main(process.argv[2], process.argv[3]).catch((error) => {
  console.error(error);
  process.exit(1);
});
