// The Node.js software that people run on Redis strings, as it is: sessions, caches, locks, limits. HOST PORT.
"use strict";
const assert = require("node:assert/strict");
const [host, port] = [process.argv[2], Number(process.argv[3])];
const url = `redis://${host}:${port}`;

async function sessions() {
  const { createClient } = require("redis");
  const { RedisStore } = require("connect-redis");
  const client = createClient({ url, database: 6 });
  await client.connect();
  await client.flushDb();
  const store = new RedisStore({ client, prefix: "sess:", ttl: 100 });
  const call = (name, ...args) =>
    new Promise((done, fail) => store[name](...args, (error, value) => (error ? fail(error) : done(value))));
  const session = { cookie: { originalMaxAge: 60000 }, user: "me" };
  await call("set", "one", session);
  await call("set", "two", session);
  assert.deepEqual(await call("get", "one"), session);
  assert.equal((await call("get", "none")) ?? null, null);
  await call("touch", "one", session);
  assert.equal(await call("length"), 2);
  assert.deepEqual((await call("ids")).sort(), ["one", "two"]);
  assert.equal((await call("all")).length, 2);
  await call("destroy", "one");
  await call("clear");
  assert.equal(await call("length"), 0);
  await client.close();
}

async function caches() {
  const Keyv = require("keyv").default ?? require("keyv").Keyv;
  const KeyvRedis = require("@keyv/redis").default;
  const keyv = new Keyv({ store: new KeyvRedis(`${url}/7`), namespace: "cache" });
  await keyv.clear();
  await keyv.set("a", { n: 1 }, 60000);
  await keyv.set("b", "two");
  assert.deepEqual(await keyv.get("a"), { n: 1 });
  assert.deepEqual(await keyv.get(["a", "b", "c"]), [{ n: 1 }, "two", undefined]);
  assert.equal(await keyv.has("b"), true);
  assert.equal(await keyv.delete("b"), true);
  await keyv.set("short", 1, 300);
  for (let tries = 0; (await keyv.get("short")) !== undefined; tries++) {
    assert.ok(tries < 1000, "a short-lived value goes");
    await new Promise((done) => setTimeout(done, 20));
  }
  await keyv.clear();
  assert.equal(await keyv.get("a"), undefined);
  await keyv.disconnect();
}

async function locksAndLimits() {
  const Redis = require("ioredis");
  const client = new Redis({ host, port, db: 8 });
  await client.flushdb();
  const Redlock = require("redlock");
  const redlock = new Redlock([client], { retryCount: 0 });
  const lock = await redlock.lock("resource", 5000);
  await assert.rejects(redlock.lock("resource", 5000));
  const longer = await lock.extend(8000);
  await longer.unlock();
  assert.equal(await client.exists("resource"), 0);

  const { RateLimiterRedis } = require("rate-limiter-flexible");
  const limiter = new RateLimiterRedis({ storeClient: client, points: 3, duration: 60, keyPrefix: "flex" });
  for (let n = 0; n < 3; n++) assert.equal((await limiter.consume("user")).remainingPoints, 2 - n);
  await assert.rejects(limiter.consume("user"), (refused) => refused.msBeforeNext > 0);
  assert.equal((await limiter.get("user")).consumedPoints, 4);
  await limiter.delete("user");

  const { RedisStore } = require("rate-limit-redis");
  const store = new RedisStore({ sendCommand: (...words) => client.call(...words), prefix: "rl:" });
  await store.init({ windowMs: 60000 });
  assert.equal((await store.increment("user")).totalHits, 1);
  assert.equal((await store.increment("user")).totalHits, 2);
  await store.decrement("user");
  assert.equal((await store.get("user")).totalHits, 1);
  await store.resetKey("user");
  await client.flushdb();
  await client.quit();
}

(async () => {
  await sessions();
  await caches();
  await locksAndLimits();
  console.log("ok");
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
