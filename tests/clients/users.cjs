// ioredis and node-redis as a user of an ACL file: login, what is refused, a wrong password.
const assert = require('node:assert');
const Redis = require('ioredis').default ?? require('ioredis');
const { createClient } = require('redis');

async function main(host, port) {
  const io = new Redis({ host, port: Number(port), username: 'app', password: 'pw', retryStrategy: null });
  assert.equal(await io.set('app:1', 'v'), 'OK');
  assert.equal(await io.get('app:1'), 'v');
  await assert.rejects(io.get('other'), /NOPERM/);
  await assert.rejects(io.flushall(), /NOPERM/);
  assert.deepEqual(await io.multi().set('app:2', 'w').get('app:2').exec(), [[null, 'OK'], [null, 'w']]);
  io.disconnect();

  const stranger = new Redis({ host, port: Number(port), username: 'app', password: 'wrong', retryStrategy: null });
  stranger.on('error', () => {});
  await assert.rejects(stranger.get('app:1'));
  stranger.disconnect();

  for (const RESP of [2, 3]) {
    const node = createClient({ url: `redis://app:pw@${host}:${port}`, RESP });
    await node.connect();
    assert.equal(await node.set('app:1', 'v'), 'OK');
    assert.equal(await node.get('app:1'), 'v');
    await assert.rejects(node.get('other'), /NOPERM/);
    await node.close();
    const wrong = createClient({ url: `redis://app:wrong@${host}:${port}`, RESP, socket: { reconnectStrategy: false } });
    wrong.on('error', () => {});
    await assert.rejects(wrong.connect(), /WRONGPASS/);
  }
  console.log('ok');
}

main(process.argv[2], process.argv[3]).catch((error) => {
  console.error(error);
  process.exit(1);
});
