// connect-redis sessions, keyv, redlock and the rate limiters at work while leaders are killed. NAME HOST PORT; see
// failover.rs. A round does a little with each, each checks what it got; at the end every acknowledged value is found
// again.
"use strict";
const assert = require("node:assert/strict");
const [name, host, port] = [process.argv[2], process.argv[3], Number(process.argv[4])];
const url = `redis://${host}:${port}`;

const { createClient } = require("redis");
const { RedisStore } = require("connect-redis");
const Keyv = require("keyv").default ?? require("keyv").Keyv;
const KeyvRedis = require("@keyv/redis").default;
const Redis = require("ioredis");
const Redlock = require("redlock");
const { RateLimiterRedis } = require("rate-limiter-flexible");

let stop = false;
process.stdin.on("end", () => (stop = true)).resume();
const ignore = () => {};

(async () => {
  const reconnectStrategy = () => 50;
  const sessions = createClient({ url, database: 6, socket: { reconnectStrategy } });
  sessions.on("error", ignore);
  await sessions.connect();
  const store = new RedisStore({ client: sessions, prefix: `${name}:`, ttl: 1000 });
  const call = (what, ...args) =>
    new Promise((done, fail) => store[what](...args, (error, value) => (error ? fail(error) : done(value))));
  const keyv = new Keyv({ store: new KeyvRedis({ url: `${url}/7`, socket: { reconnectStrategy } }), namespace: name });
  keyv.on("error", ignore);
  const plain = new Redis({ host, port, db: 8, retryStrategy: () => 50, maxRetriesPerRequest: null });
  plain.on("error", ignore);
  const redlock = new Redlock([plain], { retryCount: 0 });
  const limiter = new RateLimiterRedis({ storeClient: plain, points: 2, duration: 1000, keyPrefix: name });

  const acknowledged = [];
  let [failed, n] = [0, 0];
  while (!stop) {
    n++;
    try {
      const session = { cookie: { originalMaxAge: 1000000 }, n };
      await call("set", `s${n}`, session);
      acknowledged.push(n);
      assert.deepEqual(await call("get", `s${n}`), session);
      await call("touch", `s${n}`, session);

      assert.equal(await keyv.set(`k${n}`, { n }, 1000000), true);
      assert.deepEqual(await keyv.get(`k${n}`), { n });

      const lock = await redlock.lock(`${name}:lock:${n}`, 100000);
      await assert.rejects(redlock.lock(`${name}:lock:${n}`, 100000));
      await lock.unlock();

      assert.equal((await limiter.consume(`u${n}`)).remainingPoints, 1);
      assert.equal((await limiter.consume(`u${n}`)).remainingPoints, 0);
      await assert.rejects(limiter.consume(`u${n}`), (refused) => refused.msBeforeNext > 0);
      console.log(`round ${n}`);
    } catch (error) {
      failed++;
      console.error(`round ${n}:`, error);
    }
  }
  for (const n of acknowledged) assert.equal((await call("get", `s${n}`))?.n, n, `session s${n} is lost`);
  console.log(`ok ${acknowledged.length} ${failed}`);
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
