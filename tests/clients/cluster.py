"""redis-py's cluster client: one shard, found through any node."""

import sys

from redis.cluster import RedisCluster

host, port = sys.argv[1], int(sys.argv[2])
client = RedisCluster(host=host, port=port, decode_responses=True)
assert len(client.get_primaries()) == 1, client.get_nodes()
assert client.keyslot("foo") == client.cluster_keyslot("foo") == 12182
for n in range(200):
    assert client.set(f"key:{n}", n)
assert [client.get(f"key:{n}") for n in range(200)] == [str(n) for n in range(200)]
assert client.mset_nonatomic({"a": 1, "b": 2})
assert client.mget_nonatomic("a", "b", "missing") == ["1", "2", None]
pipeline = client.pipeline()
for n in range(100):
    pipeline.get(f"key:{n}")
assert pipeline.execute() == [str(n) for n in range(100)]
assert client.cluster_info()["cluster_state"] == "ok"
assert client.incr("counter") == 1
assert set(client.scan_iter(match="key:*")) == {f"key:{n}" for n in range(200)}
assert client.delete("a", "b", "missing", "counter") == 3
assert client.eval("return redis.call('get', KEYS[1])", 1, "key:7") == "7"

readers = RedisCluster(host=host, port=port, decode_responses=True, read_from_replicas=True)
assert readers.get("key:7") in ("7", None)
client.flushall()
print("ok")
