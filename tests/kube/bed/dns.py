#!/usr/bin/env python3
"""Cluster DNS for the bed: A and SRV records of services, headless services and their pods, from EndpointSlices.

Follows the naming that Kubernetes documents for cluster DNS. An address that is not ready is left out unless its service
publishes such addresses (the slice then says ready itself). Anything outside cluster.local does not exist.
"""

import os
import socket
import struct
import threading

from api import Mirror, say

LISTEN = (os.environ["BED_DNS"], 53)
ZONE = "cluster.local"
A, SRV, ANY = 1, 33, 255
TTL_SECONDS = 1


class Names:
    """The two tables of names, built anew at every change."""

    def __init__(self):
        self.addresses = {}
        self.services = {}
        self.lock = threading.Lock()
        self.service_mirror = Mirror("/api/v1/services", self.rebuild)
        self.slice_mirror = Mirror("/apis/discovery.k8s.io/v1/endpointslices", self.rebuild)

    def start(self):
        self.service_mirror.start()
        self.slice_mirror.start()

    def rebuild(self):
        with self.lock:
            services, slices = self.service_mirror.objects, self.slice_mirror.objects
            addresses, srv = {}, {}
            for (namespace, name), service in services.items():
                base = f"{name}.{namespace}.svc.{ZONE}"
                ip = service["spec"].get("clusterIP")
                addresses[base] = {ip} if ip and ip != "None" else set()
            for (namespace, _), part in slices.items():
                owner = part["metadata"].get("labels", {}).get("kubernetes.io/service-name")
                service = services.get((namespace, owner))
                if service and service["spec"].get("clusterIP") == "None":
                    self.add_slice(f"{owner}.{namespace}.svc.{ZONE}", part, addresses, srv)
            self.addresses, self.services = addresses, srv

    @staticmethod
    def add_slice(base, part, addresses, srv):
        for endpoint in part.get("endpoints") or []:
            if endpoint.get("conditions", {}).get("ready") is False:
                continue
            for ip in endpoint["addresses"]:
                host = f"{endpoint.get('hostname') or ip.replace('.', '-')}.{base}".lower()
                addresses.setdefault(base, set()).add(ip)
                addresses.setdefault(host, set()).add(ip)
                for port in part.get("ports") or []:
                    if port.get("name"):
                        name = f"_{port['name']}._{port.get('protocol', 'TCP')}.{base}".lower()
                        srv.setdefault(name, set()).add((port["port"], host))

    def answer(self, query):
        """The reply to one DNS message."""
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace"))
            at += 1 + query[at]
        (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
        name = ".".join(labels).lower()
        records, code = [], 0
        if name in self.addresses:
            if kind in (A, ANY):
                records = [(A, socket.inet_aton(ip)) for ip in sorted(self.addresses[name])]
        elif name in self.services:
            if kind in (SRV, ANY):
                targets = sorted(self.services[name])
                records = [(SRV, struct.pack(">HHH", 0, 100, port) + encode(host)) for port, host in targets]
        else:
            code = 3  # no such name
        body = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, TTL_SECONDS, len(data)) + data for kind, data in records
        )
        return query[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(records), 0, 0) + query[12 : at + 5] + body


def encode(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def serve_tcp(names):
    listener = socket.create_server(LISTEN)
    while True:
        connection, _ = listener.accept()
        try:
            with connection:
                connection.settimeout(2)
                (length,) = struct.unpack(">H", connection.recv(2))
                reply = names.answer(connection.recv(length))
                connection.sendall(struct.pack(">H", len(reply)) + reply)
        except Exception as problem:
            say(f"tcp: {problem!r}")


def main():
    names = Names()
    names.start()
    threading.Thread(target=serve_tcp, args=(names,), daemon=True).start()
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(LISTEN)
    while True:
        query, peer = listener.recvfrom(4096)
        try:
            listener.sendto(names.answer(query), peer)
        except Exception as problem:
            say(f"udp: {problem!r}")


main()
