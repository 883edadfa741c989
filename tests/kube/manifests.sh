#!/bin/sh
# Writes what is generated from one source: the copies inside the chart, deploy/install.yaml out of the chart, the schema of
# the cluster chart out of the definitions. `manifests.sh --check` writes nothing and fails if something is stale.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

PATH=$("$here/tools.sh" --where):$PATH
command -v helm >/dev/null || fail "helm is missing; tests/kube/tools.sh brings it"
cd "$here/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stale=0

# result FILE: standard input is what the file should hold
result() {
  cat >"$work/file"
  if cmp -s "$work/file" "$1"; then return 0; fi
  if [ "${mode:-}" = --check ]; then
    say "$1 is stale: make manifests"
    stale=1
  else
    mkdir -p "$(dirname "$1")"
    cat "$work/file" >"$1"
    say "wrote $1"
  fi
}
mode=${1:-}

chart=charts/kvnode-operator
result $chart/files/crd.yaml <deploy/crd.yaml
result $chart/files/alerts.yaml <deploy/alerts.yaml
result $chart/files/cluster.json <deploy/dashboards/cluster.json
result $chart/files/operator.json <deploy/dashboards/operator.json

# The rules are well formed, and each fires on what it is for.
if command -v promtool >/dev/null; then
  promtool check rules deploy/alerts.yaml >/dev/null || fail "deploy/alerts.yaml is not well formed"
  promtool test rules deploy/alerts_test.yaml >"$work/rules" 2>&1 || fail "an alert does not do what it is for: $(cat "$work/rules")"
else
  say "SKIPPED: there is no promtool, the alert rules are not played"
  [ -z "${KVNODE_REQUIRE_TOOLS:-}" ] || stale=1
fi

namespace=kvnode-system
cat >"$work/head" <<YAML
# The operator with its defaults, for kubectl apply --server-side -f. Generated from charts/kvnode-operator by make manifests.
apiVersion: v1
kind: Namespace
metadata:
  name: $namespace
  labels:
    pod-security.kubernetes.io/enforce: restricted
YAML
helm template kvnode-operator $chart --namespace $namespace >"$work/body"
cat "$work/head" "$work/body" | result deploy/install.yaml

# The chart's values take the spec as the definition has it; what only Kubernetes understands is left out.
python3 - deploy/crd.yaml <<'PYTHON' >"$work/schema"
import json, re, subprocess, sys


def load(path):
    """The KvCluster's schema, by kubectl: Python has no YAML of its own."""
    text = subprocess.run(
        ["kubectl", "label", "--local", "--dry-run=client", "-o", "json", "-f", path, "for=reading"],
        capture_output=True, text=True, check=True).stdout
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text):
        item, at = decoder.raw_decode(text, at)
        found += item.get("items", [item])
        at = at + len(text[at:]) - len(text[at:].lstrip())
    (crd,) = [item for item in found if item["metadata"]["name"] == "kvclusters.kvnode.dev"]
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def plain(schema):
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: plain(value) for key, value in schema.items() if not key.startswith("x-kubernetes-") and key != "nullable"}
    if kept.get("type") == "object" and "properties" in kept and not schema.get("x-kubernetes-preserve-unknown-fields"):
        kept["additionalProperties"] = False
    if isinstance(kept.get("format"), str):
        del kept["format"]
    return kept


spec = plain(load(sys.argv[1]))
texts = {"type": "object", "additionalProperties": {"type": "string"}}
print(json.dumps({
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "global": {"type": "object"},
        "name": {"type": "string", "pattern": "^([a-z]([-a-z0-9]*[a-z0-9])?)?$", "maxLength": 45},
        "labels": texts,
        "annotations": texts,
        "monitoring": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "podMonitor": {"type": "boolean"},
                "interval": {"type": "string", "pattern": "^[1-9][0-9]*(ms|s|m|h)$"},
                "labels": texts,
            },
        },
        "spec": spec,
    },
}, indent=1))
PYTHON
result charts/kvnode-cluster/values.schema.json <"$work/schema"
exit $stale
