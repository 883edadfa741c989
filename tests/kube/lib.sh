# shellcheck shell=sh disable=SC2034
# Names, addresses and the few verbs that up.sh, down.sh, images.sh and pki.sh share. Sourced, never run.
#
#   host ---veth--- [kvbed-sw: a bridge] ---veth--- [kvbed-n1] [kvbed-n2] [kvbed-n3]
#   10.99.0.1                                       10.99.0.11 ...            each a network namespace
#
# Node N has pods 10.244.N.0/24; services are 10.96.0.0/16. The control plane and DNS live in kvbed-n1. The bridge stands in
# a namespace of its own, so that no packet filter of the host (Docker's, say) looks at what the nodes say to each other.

here=$(cd "$(dirname "$0")" && pwd)
cache=${KVNODE_CACHE:-$HOME/.cache/kvnode}/kube
bed=${KUBE_BED:-$cache/bed}
nodes_max=3
NODES=${NODES:-3}

pki=$bed/pki
run=${KUBE_BED_RUN:-/run/kvbed} # sockets, pids, containerd's state: gone after a reboot, as it should be
var=$bed/var
log=$bed/log
etc=$bed/etc
images=$bed/images

kubeconfig=$pki/admin.kubeconfig
api=10.99.0.11:6443
dns=10.99.0.11
switch=kvbed-sw
node_address() { echo "10.99.0.1$1"; }
node_space() { echo "kvbed-n$1"; }

say() { echo "kube bed: $*"; }
fail() {
  echo "kube bed: $*" >&2
  exit 1
}
# lack WHAT: the machine lacks something that a person must install. Callers tell it from a failure by the exit code.
lack() {
  echo "kube bed: $*" >&2
  exit 77
}

# in_space NAMESPACE COMMAND...: only the network changes. `ip netns exec` would remount /sys and hide the control groups.
in_space() {
  space=$1
  shift
  nsenter "--net=/run/netns/$space" "$@"
}

# alive NAME: the program that start wrote down runs still. Its start time is part of its name: a recycled pid is not it.
alive() {
  [ -f "$run/$1.pid" ] || return 1
  read -r pid born <"$run/$1.pid" || return 1
  [ -n "$pid" ] && [ "$(born_at "$pid")" = "$born" ]
}

# born_at PID: start time of a process in ticks since boot; empty if there is none or it has ended and waits for its parent.
born_at() {
  sed -n 's/^.*) \([^ZX].*\)/\1/p' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
}

# start NAME NAMESPACE COMMAND...: unless it runs already. Its log is log/NAME.log, its pid run/NAME.pid.
start() {
  name=$1
  space=$2
  shift 2
  if alive "$name"; then return 0; fi
  setsid nohup nsenter "--net=/run/netns/$space" "$@" >>"$log/$name.log" 2>&1 </dev/null 9>&- &
  echo "$! $(born_at $!)" >"$run/$name.pid"
}

# stop NAME: at once. What it would tidy up at a gentler end is removed by down.sh.
stop() {
  if alive "$1"; then
    read -r pid _ <"$run/$1.pid"
    kill -9 "$pid" 2>/dev/null || true
    await 50 gone "$1" || fail "$1 (process $pid) does not end"
  fi
  rm -f "$run/$1.pid"
}
gone() { ! alive "$1"; }

# await TENTHS COMMAND...: until the command succeeds, at most so many tenths of a second.
await() {
  left=$1
  shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || return 1
    sleep 0.1
  done
}

# each_node COMMAND...: with the node's number as last argument, for all that there can be.
each_node() {
  number=1
  while [ $number -le $nodes_max ]; do
    "$@" $number
    number=$((number + 1))
  done
}

# put FILE: standard input becomes the file, unless it is that already (kube-proxy ends itself when its file is touched).
put() {
  cat >"$1.new"
  if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv "$1.new" "$1"; fi
}

# Where node N's control groups hang: in each hierarchy (version 1), or in the only tree (version 2).
groups_version() {
  if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then echo 2; else echo 1; fi
}
groups_of() {
  if [ "$(groups_version)" = 2 ]; then
    echo "/sys/fs/cgroup/$(node_space "$1")"
    return
  fi
  for hierarchy in /sys/fs/cgroup/*/; do
    # A symbolic link (cpu -> cpu,cpuacct) is the same hierarchy again; `unified` is version 2's, which runc uses as well.
    if [ ! -L "${hierarchy%/}" ] && [ -f "$hierarchy/cgroup.procs" ]; then echo "$hierarchy$(node_space "$1")"; fi
  done
}

ctr_on() {
  number=$1
  shift
  ctr --address "$run/n$number.sock" --namespace k8s.io "$@"
}
