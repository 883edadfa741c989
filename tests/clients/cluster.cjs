// ioredis' and node-redis' cluster clients: one shard, found through any node.
const assert = require('node:assert');
const Redis = require('ioredis').default ?? require('ioredis');
const { createCluster } = require('redis');

async function withIoredis(host, port) {
  const client = new Redis.Cluster([{ host, port }]);
  for (let n = 0; n < 200; n += 1) assert.equal(await client.set(`key:${n}`, n), 'OK');
  for (let n = 0; n < 200; n += 1) assert.equal(await client.get(`key:${n}`), String(n));
  assert.equal(client.nodes('master').length, 1);
  assert.deepEqual(await client.mget('{a}1', '{a}2'), [null, null]);
  assert.equal(await client.eval("return redis.call('get', KEYS[1])", 1, 'key:7'), '7');
  const heard = new Promise((resolve) => client.on('message', (channel, message) => resolve([channel, message])));
  await client.subscribe('news');
  await client.publish('news', 'text');
  assert.deepEqual(await heard, ['news', 'text']);
  await client.quit();
}

async function withNodeRedis(host, port) {
  const client = createCluster({ rootNodes: [{ url: `redis://${host}:${port}` }] });
  await client.connect();
  for (let n = 0; n < 200; n += 1) assert.equal(await client.get(`key:${n}`), String(n));
  assert.deepEqual(await client.multi().set('{b}1', '1').get('{b}1').exec(), ['OK', '1']);
  const heard = new Promise((resolve) => client.sSubscribe('shard', (message) => resolve(message)));
  const text = setInterval(() => client.sPublish('shard', 'text').catch(() => {}), 20);
  assert.equal(await heard, 'text');
  clearInterval(text);
  await client.close();
}

async function main(host, port) {
  await withIoredis(host, Number(port));
  await withNodeRedis(host, Number(port));
  console.log('ok');
  process.exit(0);
}

main(process.argv[2], process.argv[3]).catch((error) => {
  console.error(error);
  process.exit(1);
});
