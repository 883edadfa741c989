"""Django's caches, Flask-Caching, Celery's results, redis-py's lock and a rate limiter at work while leaders are killed.

NAME HOST PORT; see failover.rs. A round does a little with each of them, and each checks what it got; at the end every
acknowledged value is found again."""

import sys
import threading
import warnings

import django
import limits
import redis
from celery import Celery, states
from django.conf import settings
from flask import Flask
from flask_caching import Cache

warnings.simplefilter("ignore")
name, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
url = f"redis://{host}:{port}"
patience = {"socket_timeout": 15, "socket_connect_timeout": 15}

settings.configure(
    CACHES={
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": f"{url}/1",
            "KEY_PREFIX": name,
            "OPTIONS": patience,
        },
        "package": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"{url}/2",
            "KEY_PREFIX": name,
            "OPTIONS": {"SOCKET_TIMEOUT": 15, "SOCKET_CONNECT_TIMEOUT": 15},
        },
    }
)
django.setup()
from django.core.cache import caches  # noqa: E402

app = Flask(name)
flask_cache = Cache(
    app,
    config={
        "CACHE_TYPE": "RedisCache",
        "CACHE_REDIS_URL": f"{url}/3",
        "CACHE_KEY_PREFIX": f"{name}:",
        "CACHE_OPTIONS": patience,
    },
)
celery = Celery(name, backend=f"{url}/4")
celery.conf.redis_socket_timeout = 15.0
client = redis.Redis(host=host, port=port, db=5, **patience)
storage = limits.storage.storage_from_string(f"{url}/5", **patience)
limiter = limits.strategies.FixedWindowRateLimiter(storage)
rate = limits.parse("3/hour")

# What was acknowledged: (library, key, value).
acknowledged = []
# Acknowledged increments.
counted = 0


def round_of_all(n):
    global counted
    for library in ["default", "package"]:
        cache = caches[library]
        cache.set(f"k{n}", {"n": n}, timeout=1000)
        acknowledged.append((library, f"k{n}", {"n": n}))
        assert cache.get(f"k{n}") == {"n": n}, library
        assert cache.add(f"k{n}", 0) is False, library
        cache.set_many({f"a{n}": n, f"b{n}": n}, timeout=1000)
        assert cache.get_many([f"a{n}", f"b{n}"]) == {f"a{n}": n, f"b{n}": n}, library
    caches["default"].add("hits", 0, timeout=None)
    caches["default"].incr("hits")
    counted += 1

    with app.app_context():
        flask_cache.set(f"k{n}", [n], timeout=1000)
        acknowledged.append(("flask", f"k{n}", [n]))
        assert flask_cache.get(f"k{n}") == [n]

    celery.backend.store_result(f"{name}-{n}", {"n": n}, states.SUCCESS)
    acknowledged.append(("celery", f"{name}-{n}", {"n": n}))
    assert celery.backend.get_result(f"{name}-{n}") == {"n": n}

    lock = client.lock(f"{name}:lock:{n}", timeout=100)
    assert lock.acquire(blocking=False)
    assert client.lock(f"{name}:lock:{n}", timeout=100).acquire(blocking=False) is False
    lock.release()

    passed = [limiter.hit(rate, name, str(n)) for _ in range(4)]
    assert passed == [True, True, True, False], passed


def found(library, key):
    if library == "flask":
        with app.app_context():
            return flask_cache.get(key)
    if library == "celery":
        return celery.backend.get_result(key)
    return caches[library].get(key)


stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
failed, n = 0, 0
while not stop.is_set():
    n += 1
    try:
        round_of_all(n)
        print(f"round {n}", flush=True)
    except Exception as error:
        # Also a check: through the address before all nodes a client repeats what may have been done.
        failed += 1
        print(f"round {n}: {error!r}", file=sys.stderr)

for library, key, value in acknowledged:
    got = found(library, key)
    assert got == value, f"{library} {key} is lost: {got!r}"
hits = caches["default"].get("hits")
assert counted <= hits, f"{hits} hits, {counted} acknowledged"
assert hits == counted or not name.endswith("follower"), f"{hits} hits, {counted} acknowledged"
print(f"ok {len(acknowledged)} {failed}", flush=True)
