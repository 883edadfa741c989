"""redis-py with its defaults: RESP3 handshake, pipelines, scans, binary values."""

import os
import sys

import redis

host, port = sys.argv[1], int(sys.argv[2])
pki = os.environ.get("KVNODE_TEST_PKI")
tls = {} if pki is None else {
    "ssl": True,
    "ssl_ca_certs": f"{pki}/ca.crt",
    "ssl_certfile": f"{pki}/app.crt",
    "ssl_keyfile": f"{pki}/app.key",
}
client = redis.Redis(host=host, port=port, **tls)
assert client.ping()
client.flushdb()
assert client.set("k", b"\x00\r\n\xff") is True
assert client.get("k") == b"\x00\r\n\xff"
assert client.get("missing") is None
assert client.mset({"a": 1, "b": 2})
assert client.mget("a", "b", "missing") == [b"1", b"2", None]
assert client.exists("a", "b", "missing") == 2
assert client.type("a") == b"string"

pipeline = client.pipeline(transaction=False)
for n in range(1000):
    pipeline.set(f"p:{n}", n)
    pipeline.get(f"p:{n}")
replies = pipeline.execute()
assert replies[0::2] == [True] * 1000
assert replies[1::2] == [str(n).encode() for n in range(1000)]

assert sorted(client.scan_iter(match="p:*", count=100)) == sorted(f"p:{n}".encode() for n in range(1000))
assert len(client.keys("p:*")) == 1000
assert client.delete("a", "b", "missing") == 2
assert client.dbsize() == 1001
info = client.info()
assert "redis_version" in info and info["role"] in ("master", "slave"), info
assert client.client_id() > 0

other = redis.Redis(host=host, port=port, db=3, client_name="suite", protocol=2, decode_responses=True, **tls)
assert other.get("k") is None
other.set("k", "three")
assert other.get("k") == "three" and client.get("k") != b"three"
assert other.client_getname() == "suite"
try:
    client.execute_command("NOSUCH")
    raise AssertionError("an unknown command was taken")
except redis.ResponseError:
    pass
client.flushall()
assert client.dbsize() == 0 and other.dbsize() == 0
print("ok")
