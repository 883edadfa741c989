"""redis-py at work while a leader is killed. See failover.rs for what is written and read on the way."""

import sys
import threading

import redis

name, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = redis.Redis(host=host, port=port, socket_timeout=15, decode_responses=True)
unlock = client.register_script(
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"
)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()

acknowledged, failed, n = [], 0, 0
while not stop.is_set():
    n += 1
    try:
        assert client.set(f"{name}:{n}", n, ex=1000) is True
        acknowledged.append(n)
        assert client.get(f"{name}:{n}") == str(n)
        pair = client.pipeline(transaction=True)
        pair.set(f"{name}:a", n).set(f"{name}:b", n)
        assert pair.execute() == [True, True]
        if client.set(f"{name}:lock", n, nx=True, px=10000):
            unlock(keys=[f"{name}:lock"], args=[n])
        print(f"round {n}", flush=True)
    except redis.RedisError as error:
        failed += 1
        print(f"round {n}: {error!r}", file=sys.stderr)

for n in acknowledged:
    assert client.get(f"{name}:{n}") == str(n), f"{name}:{n} is lost"
assert client.get(f"{name}:a") == client.get(f"{name}:b")
print(f"ok {len(acknowledged)} {failed}", flush=True)
