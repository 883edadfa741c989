#!/bin/sh
# Ends the bed and removes what it made: processes, containers, mounts, control groups, namespaces, routes, files. The
# programs that tools.sh built stay in the cache. Needs root. Ends nothing that the bed did not start.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

[ "$(id -u)" = 0 ] || fail "needs root, as up.sh did: run it with sudo -E"
PATH=/usr/sbin:/sbin:$PATH

# Kubelets first, or they start again what is ended below.
stop_kubelet() { stop "kubelet-n$1"; }
each_node stop_kubelet

# What pods run is what hangs in the bed's control groups.
stop_pods() {
  for group in $(groups_of "$1"); do
    [ -d "$group" ] || continue
    find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u | while read -r pid; do
      kill -9 "$pid" 2>/dev/null || true
    done
  done
}
each_node stop_pods

for name in provisioner dns scheduler controller-manager apiserver etcd; do stop $name; done
stop_node() {
  stop "proxy-n$1"
  stop "containerd-n$1"
}
each_node stop_node

# containerd's shims outlive it by design. Ours are those that were told one of our sockets.
for process in /proc/[0-9]*; do
  if tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -q "containerd-shim-runc-v2 .*-address $run/n[0-9].sock"; then
    kill -9 "${process#/proc/}" 2>/dev/null || true
  fi
done
each_node stop_pods

# unmounted: nothing is mounted below our directories any more
unmounted() {
  cut -d ' ' -f 2 /proc/mounts | grep -e "^$bed/" -e "^$run/" | sort -r | while read -r mount; do
    umount "$mount" 2>/dev/null || umount -l "$mount"
  done
  ! grep -q -e " $bed/" -e " $run/" /proc/mounts
}
await 50 unmounted || fail "something is still mounted below $bed or $run"

remove_node() {
  ip netns del "$(node_space "$1")" 2>/dev/null || true
  ip route del "10.244.$1.0/24" 2>/dev/null || true
  for group in $(groups_of "$1"); do
    if [ -d "$group" ]; then await 50 without_group "$group" || fail "cannot remove $group"; fi
  done
}
without_group() {
  find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
  [ ! -d "$1" ]
}
each_node remove_node
ip route del 10.96.0.0/16 2>/dev/null || true
ip netns del $switch 2>/dev/null || true
ip link del kvbed0 2>/dev/null || true

rm -rf "$run" "$bed"
say "everything removed; the built programs stay in $cache"
