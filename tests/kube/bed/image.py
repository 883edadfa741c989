#!/usr/bin/env python3
"""Makes a container image out of programs of this machine and the shared libraries that they load. No daemon, no registry.

    image.py NAME:TAG OUT.tar [--program FILE[=PATH]]... [--file FILE=PATH]... [--directory PATH:UID]...
             [--entrypoint WORD]... [--user UID:GID] [--label KEY=VALUE]

One layer, in the archive form of `docker save`, which `ctr images import`, `docker load` and skopeo read. The same input
gives the same bytes. The real images come from the Dockerfile; these serve a bed without a builder.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# Names are looked up in files first, then by DNS; users have names, which some programs insist on.
ETC = {
    "/etc/passwd": b"root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
    "/etc/group": b"root:x:0:\nnonroot:x:65532:\n",
    "/etc/nsswitch.conf": b"hosts: files dns\n",
}


def libraries(program):
    """The shared libraries that the dynamic linker would load, the linker itself among them."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    missing = re.findall(r"(\S+) => not found", listed)
    if missing:
        raise SystemExit(f"{program}: libraries not found: {missing}")
    return re.findall(r"(/\S+) \(0x", listed)


class Layer:
    def __init__(self):
        self.entries = {}

    def directory(self, path, owner=0):
        if path in ("", "/"):
            return
        self.directory(os.path.dirname(path))
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o755, owner, owner
        if path not in self.entries or owner:
            self.entries[path] = (entry, None)

    def file(self, path, content, mode):
        self.directory(os.path.dirname(path))
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.size, entry.mode = len(content), mode
        self.entries[path] = (entry, content)

    def copy(self, source, path):
        with open(source, "rb") as file:
            self.file(path, file.read(), os.stat(source).st_mode & 0o755)

    def program(self, source, path):
        self.copy(source, path)
        for library in libraries(source):
            self.copy(library, library)

    def bytes(self):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(self.entries):
                entry, content = self.entries[path]
                archive.addfile(entry, content and io.BytesIO(content))
        return out.getvalue()


def write(options, layer):
    layer_id = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {
            "Entrypoint": options.entrypoint,
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "User": options.user,
            "Labels": dict(label.split("=", 1) for label in options.label),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_id}"]},
        "history": [{"created_by": "image.py"}],
    }
    config = json.dumps(config).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    layer_name = f"{layer_id}/layer.tar"
    manifest = [{"Config": config_name, "RepoTags": [options.name], "Layers": [layer_name]}]
    with tarfile.open(options.out + ".new", "w") as archive:
        parts = ((config_name, config), (layer_name, layer), ("manifest.json", json.dumps(manifest).encode()))
        for name, content in parts:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    os.replace(options.out + ".new", options.out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("out")
    for many in ("--program", "--file", "--directory", "--entrypoint", "--label"):
        parser.add_argument(many, action="append", default=[])
    parser.add_argument("--user", default="65532:65532")
    options = parser.parse_args()
    layer = Layer()
    for path, content in ETC.items():
        layer.file(path, content, 0o644)
    layer.directory("/tmp")
    for given in options.directory:
        path, owner = given.rsplit(":", 1)
        layer.directory(path, int(owner))
    for given in options.program:
        source, _, path = given.partition("=")
        layer.program(source, path or source)
    for given in options.file:
        source, _, path = given.partition("=")
        layer.copy(source, path)
    write(options, layer.bytes())


main()
