"""The Python software that people run on Redis strings, as it is: caches, results, locks, limits. HOST PORT."""
import sys
import time

host, port = sys.argv[1], int(sys.argv[2])
url = f"redis://{host}:{port}"


def check(got, wanted, what):
    assert got == wanted, f"{what}: {got!r}, not {wanted!r}"


def soon(probe, what):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if probe():
            return
        time.sleep(0.02)
    raise AssertionError(f"not within 20 s: {what}")


def caches():
    import django
    from django.conf import settings

    settings.configure(
        CACHES={
            "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": f"{url}/1"},
            "package": {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": f"{url}/2",
                "OPTIONS": {"CLIENT_CLASS": "django_redis.client.DefaultClient"},
            },
        }
    )
    django.setup()
    from django.core.cache import caches

    for name in ["default", "package"]:
        cache = caches[name]
        cache.clear()
        check(cache.get("k"), None, name)
        cache.set("k", {"a": [1, 2]}, timeout=100)
        check(cache.get("k"), {"a": [1, 2]}, name)
        check(cache.add("k", 1), False, name)
        check(cache.add("fresh", 1, timeout=50), True, name)
        check(cache.incr("fresh", 4), 5, name)
        check(cache.decr("fresh"), 4, name)
        cache.set_many({"x": 1, "y": "two"}, timeout=60)
        check(cache.get_many(["x", "y", "z"]), {"x": 1, "y": "two"}, name)
        check(cache.touch("x", 10), True, name)
        check("y" in cache, True, name)
        check(cache.get_or_set("lazy", lambda: 7), 7, name)
        cache.delete_many(["x", "y"])
        check(cache.get("y"), None, name)
        check(cache.delete("k"), True, name)
        cache.set("short", 1, timeout=1)
        soon(lambda: cache.get("short") is None, "a short-lived value goes")
        cache.set("n", 1, timeout=None)
    package = caches["package"]
    check(package.ttl("n"), None, "no deadline")
    package.set("p", 1, timeout=30)
    assert 25 < package.ttl("p") <= 30
    check(package.persist("p"), True, "persist")
    check(package.expire("p", 20), True, "expire")
    check(sorted(package.keys("*")), ["fresh", "lazy", "n", "p"], "keys")
    check(sorted(package.iter_keys("*")), ["fresh", "lazy", "n", "p"], "iter_keys")
    check(package.delete_pattern("la*"), 1, "delete_pattern")
    check(package.set("nx", 1, nx=True), True, "nx")
    check(package.set("nx", 2, nx=True), False, "nx")
    with package.lock("lock", timeout=5):
        check(package.lock("lock", blocking_timeout=0.01).acquire(), False, "held")
    for name in ["default", "package"]:
        caches[name].clear()
        check(caches[name].get("n"), None, name)


def flask_caching():
    from flask import Flask
    from flask_caching import Cache

    app = Flask("suite")
    cache = Cache(
        app, config={"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": f"{url}/3", "CACHE_KEY_PREFIX": "flask:"}
    )
    with app.app_context():
        calls = []

        @cache.memoize(timeout=50)
        def double(n):
            calls.append(n)
            return 2 * n

        check([double(2), double(2), double(3)], [4, 4, 6], "memoize")
        check(calls, [2, 3], "each is worked out once")
        cache.set("k", {"v": 1}, timeout=10)
        check(cache.get("k"), {"v": 1}, "get")
        check(cache.add("k", 2), False, "add")
        cache.set_many({"a": 1, "b": 2})
        check(cache.get_many("a", "b"), [1, 2], "get_many")
        check(cache.inc("a") if hasattr(cache, "inc") else 2, 2, "inc")
        check(bool(cache.delete("k")), True, "delete")
        cache.clear()
        check(cache.get("b"), None, "clear")


def celery_results():
    from celery import Celery, states

    app = Celery("suite", backend=f"{url}/4")
    backend = app.backend
    backend.store_result("task-1", {"sum": 3}, states.SUCCESS)
    check(backend.get_result("task-1"), {"sum": 3}, "a result")
    check(backend.get_state("task-1"), states.SUCCESS, "its state")
    check(app.AsyncResult("task-1").get(timeout=20), {"sum": 3}, "waited for")
    waiting = app.AsyncResult("task-2")
    backend.result_consumer.start("task-2")
    backend.result_consumer.consume_from("task-2")
    app.backend.store_result("task-2", "late", states.SUCCESS)
    check(waiting.get(timeout=20), "late", "told by a message")
    backend.forget("task-1")
    check(backend.get_state("task-1"), states.PENDING, "forgotten")


def locks_and_limits():
    import limits
    import redis

    client = redis.Redis(host=host, port=port, db=5)
    client.flushdb()
    lock = client.lock("lock", timeout=10)
    assert lock.acquire(blocking=False)
    check(client.lock("lock", timeout=10).acquire(blocking=False), False, "held")
    lock.extend(10, replace_ttl=True)
    assert 5000 < client.pttl("lock") <= 10000
    check(lock.reacquire(), True, "reacquire")
    lock.release()
    check(client.exists("lock"), 0, "released")
    with client.lock("lock", timeout=1, blocking_timeout=5):
        pass
    storage = limits.storage.storage_from_string(f"{url}/5")
    limiter = limits.strategies.FixedWindowRateLimiter(storage)
    rate = limits.parse("3/minute")
    check([limiter.hit(rate, "user") for _ in range(5)], [True, True, True, False, False], "fixed window")
    check(limiter.get_window_stats(rate, "user").remaining, 0, "nothing left")
    limiter.clear(rate, "user")
    check(limiter.hit(rate, "user"), True, "cleared")
    sliding = limits.strategies.SlidingWindowCounterRateLimiter(storage)
    check([sliding.hit(rate, "other") for _ in range(5)], [True, True, True, False, False], "sliding window")
    pipe = client.pipeline()
    pipe.set("a", 1).incr("a").expire("a", 50).get("a")
    check(pipe.execute(), [True, 2, True, b"2"], "a transaction")
    check(client.transaction(lambda p: p.multi() or p.incr("a"), "a"), [3], "with a watch")
    client.flushdb()


caches()
flask_caching()
celery_results()
locks_and_limits()
print("ok")
