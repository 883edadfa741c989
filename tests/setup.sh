#!/bin/sh
# Installs what this machine lacks; asks for nothing that is there. Usage: setup.sh build|test|bench|kube|chaos
# Debian 12, Debian 13, Ubuntu 24.04; on anything else it says what is missing and stops.
set -eu

stage=${1:?usage: setup.sh build|test|bench|kube|chaos}
packages=

# want PACKAGE CHECK...: the package is needed if the check fails.
want() {
  package=$1
  shift
  "$@" >/dev/null 2>&1 || packages="$packages $package"
}
have() { command -v "$1"; }
# The C interface, which bindgen loads. libclang-cpp, which comes with LLVM's tools, is another library.
have_libclang() { { ldconfig -p; ls /usr/lib/llvm-*/lib; } 2>/dev/null | grep -Eq 'libclang(-[0-9.]+)?\.so'; }

have_cni() { test -x /usr/lib/cni/bridge || test -x /opt/cni/bin/bridge; }
have_sbin() { command -v "$1" || test -x "/usr/sbin/$1" || test -x "/sbin/$1"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

want build-essential have g++
want pkg-config have pkg-config
want libclang-dev have_libclang
want ccache have ccache
want curl have curl
want ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
case $stage in
test | chaos)
  want iptables have_sbin iptables-restore
  want iproute2 have_sbin ip
  want e2fsprogs have_sbin mkfs.ext4
  want python3 have python3
  ;;
esac
case $stage in
test)
  want redis-server have redis-server
  want redis-tools have redis-cli
  want wamerican test -e /usr/share/dict/american-english
  want python3-venv python3 -c 'import ensurepip, venv'
  want nodejs have node
  want npm have npm
  want golang-go have go
  want default-jdk-headless have javac
  want maven have mvn
  want prometheus-redis-exporter have prometheus-redis-exporter
  ;;
bench)
  want redis-server have redis-server
  want redis-tools have redis-cli
  want wamerican test -e /usr/share/dict/american-english
  want etcd-server have etcd
  ;;
kube)
  want etcd-server have etcd
  want containerd have containerd
  want runc have runc
  want containernetworking-plugins have_cni
  want iptables have_sbin iptables
  want iproute2 have_sbin ip
  want openssl have openssl
  want redis-tools have redis-cli
  want binutils have strip
  want python3-venv python3 -c 'import ensurepip, venv'
  ;;
esac

if [ -n "$packages" ]; then
  command -v apt-get >/dev/null || { echo "setup: please install:$packages" >&2; exit 1; }
  echo "setup: installing$packages"
  # No service may start by itself: the suites start their own servers on their own ports.
  as_root apt-get update -q
  # shellcheck disable=SC2086
  as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -yq --no-install-recommends $packages
fi

# The compiler is the one that rust-toolchain.toml pins; rustup fetches it at the first use of cargo.
if ! command -v rustup >/dev/null && ! cargo --version 2>/dev/null | grep -q "$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)"; then
  echo "setup: installing rustup"
  # Asked by a simulated installation: of a package that only others refer to, `apt-cache show` says that all is well.
  if apt-get install -sqq rustup >/dev/null 2>&1; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -yq rustup
  else
    curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs | sh -s -- -y --no-modify-path --default-toolchain none
  fi
fi
