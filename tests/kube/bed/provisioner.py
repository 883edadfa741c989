#!/usr/bin/env python3
"""Volumes for the bed: each claim of the class `standard` gets a directory as a `local` PersistentVolume.

Local volumes, not host paths, because those honour fsGroup and carry a node affinity, as volumes in production do.
A released volume with reclaim policy Delete goes with its directory. Growth changes the numbers only: it is a directory.
"""

import os
import shutil
import threading

from api import Mirror, call, say

NAME = "kvnode.dev/bed"
DIRECTORY = os.environ["BED_VOLUMES"]
MADE_BY = "pv.kubernetes.io/provisioned-by"
MERGE = "application/merge-patch+json"


class Provisioner:
    def __init__(self):
        self.wake = threading.Event()
        self.classes = Mirror("/apis/storage.k8s.io/v1/storageclasses", self.wake.set)
        self.claims = Mirror("/api/v1/persistentvolumeclaims", self.wake.set)
        self.volumes = Mirror("/api/v1/persistentvolumes", self.wake.set)

    def run(self):
        for mirror in (self.classes, self.claims, self.volumes):
            mirror.start()
        while True:
            # The timeout repeats what an API server that was away has refused.
            self.wake.wait(5)
            self.wake.clear()
            try:
                self.step()
            except Exception as problem:
                say(repr(problem))

    def step(self):
        volumes = {name: volume for (_, name), volume in self.volumes.objects.items()}
        for claim in self.claims.objects.values():
            storage = self.classes.objects.get(("", claim["spec"].get("storageClassName")))
            if storage and storage["provisioner"] == NAME:
                self.serve(claim, storage, volumes)
        for volume in volumes.values():
            if volume["metadata"].get("annotations", {}).get(MADE_BY) == NAME:
                self.reclaim(volume)

    @staticmethod
    def serve(claim, storage, volumes):
        meta, spec = claim["metadata"], claim["spec"]
        wanted = spec["resources"]["requests"]["storage"]
        name = f"pvc-{meta['uid']}"
        bound = volumes.get(spec.get("volumeName"))
        if bound:
            if bound["spec"]["capacity"]["storage"] != wanted and claim.get("status", {}).get("phase") == "Bound":
                capacity = {"capacity": {"storage": wanted}}
                call("PATCH", f"/api/v1/persistentvolumes/{spec['volumeName']}", {"spec": capacity}, MERGE)
                path = f"/api/v1/namespaces/{meta['namespace']}/persistentvolumeclaims/{meta['name']}/status"
                call("PATCH", path, {"status": capacity}, MERGE)
            return
        node = meta.get("annotations", {}).get("volume.kubernetes.io/selected-node")
        if not node and storage.get("volumeBindingMode") != "WaitForFirstConsumer":
            node = "n1"
        if spec.get("volumeName") or name in volumes or not node or "deletionTimestamp" in meta:
            return
        directory = f"{DIRECTORY}/{name}"
        os.makedirs(directory, mode=0o755, exist_ok=True)
        on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {MADE_BY: NAME}},
            "spec": {
                "capacity": {"storage": wanted},
                "accessModes": spec["accessModes"],
                "persistentVolumeReclaimPolicy": storage.get("reclaimPolicy", "Delete"),
                "storageClassName": spec["storageClassName"],
                "volumeMode": "Filesystem",
                "local": {"path": directory},
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": meta["namespace"],
                    "name": meta["name"],
                    "uid": meta["uid"],
                },
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
            },
        }
        call("POST", "/api/v1/persistentvolumes", volume)

    @staticmethod
    def reclaim(volume):
        released = volume.get("status", {}).get("phase") in ("Released", "Failed")
        if released and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
            call("DELETE", f"/api/v1/persistentvolumes/{volume['metadata']['name']}")
            shutil.rmtree(volume["spec"]["local"]["path"], ignore_errors=True)


Provisioner().run()
