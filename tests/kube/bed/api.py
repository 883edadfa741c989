"""The bed's own small client of the API server: list, watch, write. Standard library only.

A Mirror keeps a copy of one kind by list and watch and calls back after every change; it survives the API server.
"""

import http.client
import json
import os
import ssl
import sys
import threading
import time

ADDRESS = os.environ["BED_API"]
PKI = os.environ["BED_PKI"]

TLS = ssl.create_default_context(cafile=f"{PKI}/ca.crt")
TLS.load_cert_chain(f"{PKI}/admin.crt", f"{PKI}/admin.key")


def say(text):
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def connect(timeout):
    return http.client.HTTPSConnection(ADDRESS, context=TLS, timeout=timeout)


def call(method, path, body=None, kind="application/json"):
    """One request. Returns the status and the answer; a refusal other than 404 and 409 is also said aloud."""
    connection = connect(10)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": kind})
        answer = connection.getresponse()
        content = json.loads(answer.read() or b"{}")
    finally:
        connection.close()
    if answer.status >= 300 and answer.status not in (404, 409):
        say(f"{method} {path}: {answer.status} {content.get('message')}")
    return answer.status, content


class Mirror(threading.Thread):
    """A copy of all objects of one kind, kept by a thread: {(namespace, name): object}."""

    def __init__(self, path, changed):
        super().__init__(daemon=True)
        self.path = path
        self.changed = changed
        self.objects = {}

    def run(self):
        while True:
            try:
                self.follow()
            except Exception as problem:  # the API server is away: ask again
                say(f"{self.path}: {problem!r}")
                time.sleep(0.5)

    def follow(self):
        connection = connect(330)
        connection.request("GET", self.path)
        listed = json.load(connection.getresponse())
        self.objects = {self.key(item): item for item in listed["items"]}
        self.changed()
        version = listed["metadata"]["resourceVersion"]
        connection.request("GET", f"{self.path}?watch=1&timeoutSeconds=300&resourceVersion={version}")
        for line in connection.getresponse():
            event = json.loads(line)
            if event["type"] == "ERROR":
                return
            key = self.key(event["object"])
            # A new dictionary each time: readers on other threads never see one that changes under them.
            if event["type"] == "DELETED":
                self.objects = {other: item for other, item in self.objects.items() if other != key}
            else:
                self.objects = {**self.objects, key: event["object"]}
            self.changed()

    @staticmethod
    def key(item):
        return item["metadata"].get("namespace", ""), item["metadata"]["name"]
