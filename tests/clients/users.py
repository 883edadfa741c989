"""redis-py as a user of an ACL file: login in both protocols, what is refused, pools, transactions, messages."""

import sys

import redis

host, port = sys.argv[1], int(sys.argv[2])

for protocol in (2, 3):
    client = redis.Redis(host=host, port=port, username="app", password="pw", protocol=protocol)
    assert client.acl_whoami() in (b"app", "app")
    assert client.set("app:1", "v") is True
    assert client.get("app:1") == b"v"
    for refused in (lambda: client.get("other"), lambda: client.flushall(), lambda: client.publish("x", "m")):
        try:
            refused()
            raise AssertionError("it was not refused")
        except redis.exceptions.NoPermissionError:
            pass
    pipeline = client.pipeline(transaction=True)
    pipeline.set("app:2", "w").get("app:2")
    assert pipeline.execute() == [True, b"w"]
    listener = client.pubsub()
    listener.subscribe("news:1")
    assert listener.get_message(timeout=10)["type"] == "subscribe"
    client.publish("news:1", "m")
    assert listener.get_message(timeout=10)["data"] == b"m"
    listener.close()
    client.close()

    for user, password in (("app", "wrong"), ("nobody", "pw")):
        stranger = redis.Redis(host=host, port=port, username=user, password=password, protocol=protocol)
        try:
            stranger.ping()
            raise AssertionError("the login was not refused")
        except redis.exceptions.AuthenticationError:
            pass

provider = redis.UsernamePasswordCredentialProvider("app", "pw")
assert redis.Redis(host=host, port=port, credential_provider=provider).get("app:1") == b"v"
print("ok")
