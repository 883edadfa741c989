#!/bin/sh
# A real Kubernetes on this machine: API server, controllers, scheduler, and up to three nodes with kubelet, containerd and
# kube-proxy, each in a network namespace. Idempotent: what runs stays, what died is started again. Needs root.
#
#   NODES=1..3          how many nodes (3)
#   NODE_GRACE=20s      silence after which a node is NotReady
#   ETCD_NO_FSYNC=true  the control plane's own store does not sync; the nodes' disks do
#
# `up.sh --kubeconfig` only prints the path of the way in. It says at its end how to talk to it. `tests/kube/down.sh` removes everything again. The host reaches the API, pods and
# services directly. Not here: an enforcer of NetworkPolicy, a cloud's load balancers, volumes that really grow.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

if [ "${1:-}" = --kubeconfig ]; then
  echo "$kubeconfig"
  exit 0
fi
[ "$(id -u)" = 0 ] || lack "network namespaces and containers need root: run it with sudo -E"
bin=$("$here/tools.sh")
PATH=$bin:/usr/sbin:/sbin:$PATH
for program in etcd containerd runc ctr iptables ip nsenter openssl curl python3 kubectl; do
  command -v $program >/dev/null || lack "$program is missing; tests/setup.sh kube installs it"
done
plugins=
for dir in /usr/lib/cni /opt/cni/bin; do
  if [ -x $dir/bridge ]; then plugins=$dir; fi
done
[ -n "$plugins" ] || lack "no CNI plugins; tests/setup.sh kube installs them"

began=$(date +%s%3N)
step() { say "$(awk "BEGIN{printf \"%6.1f s\", ($(date +%s%3N) - $began) / 1000}")  $*"; }

mkdir -p "$run" "$var" "$log" "$etc" "$images"
exec 9>"$bed/lock"
flock 9
"$here/pki.sh"

# --- network

# linked NAMESPACE LINK: there is such a link
linked() { ip -n "$1" link show "$2" >/dev/null 2>&1; }

if [ ! -e /run/netns/$switch ]; then
  ip netns add $switch
  ip -n $switch link set lo up
  # Frames between nodes are not for a packet filter, not even in here.
  in_space $switch sysctl -qw net.bridge.bridge-nf-call-iptables=0 2>/dev/null || true
fi
linked $switch bridge || ip -n $switch link add bridge type bridge
ip -n $switch link set bridge up
if ! linked $switch host; then
  ip link del kvbed0 2>/dev/null || true
  ip link add kvbed0 type veth peer name host netns $switch
  ip -n $switch link set host master bridge up
fi
ip addr replace 10.99.0.1/24 dev kvbed0
ip link set kvbed0 up

node_network() {
  [ "$1" -le "$NODES" ] || return 0
  node=$(node_space "$1")
  [ -e "/run/netns/$node" ] || ip netns add "$node"
  if ! linked $switch "n$1"; then
    ip -n $switch link add "n$1" type veth peer name eth0 netns "$node"
    ip -n $switch link set "n$1" master bridge up
  fi
  ip -n "$node" addr replace "$(node_address "$1")/24" dev eth0
  ip -n "$node" link set lo up
  ip -n "$node" link set eth0 up
  ip -n "$node" route replace default via 10.99.0.1
  in_space "$node" sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0
  # A pod that talks to a service whose pod is on the same bridge must pass the node's filter, where services are made.
  in_space "$node" sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
  for other in $(seq 1 $nodes_max); do
    [ "$other" = "$1" ] || ip -n "$node" route replace "10.244.$other.0/24" via "$(node_address "$other")"
  done
  ip route replace "10.244.$1.0/24" via "$(node_address "$1")"
}
each_node node_network
ip route replace 10.96.0.0/16 via "$(node_address 1)"
first=$(node_space 1)

# --- control plane

start etcd "$first" etcd --data-dir "$var/etcd" --unsafe-no-fsync="${ETCD_NO_FSYNC:-true}" --logger zap \
  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
  --initial-cluster default=http://127.0.0.1:2380

# SizeBasedListCostEstimate: an etcd of the 3.4 line answers its question with an error, for ever.
start apiserver "$first" "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
  --secure-port="${api#*:}" --advertise-address="${api%:*}" --service-cluster-ip-range=10.96.0.0/16 \
  --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --kubelet-client-certificate="$pki/apiserver-kubelet.crt" --kubelet-client-key="$pki/apiserver-kubelet.key" \
  --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
  --feature-gates=SizeBasedListCostEstimate=false

# --- nodes: containerd first, it opens its files while the API server starts

node_files() {
  [ "$1" -le "$NODES" ] || return 0
  mkdir -p "$etc/n$1/cni" "$var/n$1"
  echo "nameserver $dns" | put "$etc/n$1/resolv.conf"
  put "$etc/n$1/cni/10-kvbed.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "kvbed", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$run/n$1/ipam", "ranges": [[{"subnet": "10.244.$1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  # restrict_oom_score_adj: without CAP_SYS_RESOURCE a negative one is refused, and no sandbox would start.
  put "$etc/n$1/containerd.toml" <<TOML
version = 2
root = "$var/n$1/containerd"
state = "$run/n$1/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "$run/n$1.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$var/n$1/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "kvbed-pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$plugins"
    conf_dir = "$etc/n$1/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
TOML
  put "$etc/n$1/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
# By default a changed Secret takes a minute and more to reach its pods; waiting for that proves nothing more.
syncFrequency: 15s
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/node$1.crt
tlsPrivateKeyFile: $pki/node$1.key
cgroupDriver: cgroupfs
cgroupRoot: /$(node_space "$1")
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://$run/n$1.sock
clusterDNS: [$dns]
clusterDomain: cluster.local
resolvConf: $etc/n$1/resolv.conf
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
enforceNodeAllocatable: []
nodeStatusUpdateFrequency: 4s
volumePluginDir: $var/n$1/plugins
# Each kubelet removes the logs of pods that it does not know, every minute: in a common directory those of the others'.
podLogsDir: $var/n$1/pods
YAML
  put "$etc/n$1/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $pki/proxy.kubeconfig}
mode: iptables
clusterCIDR: 10.244.0.0/16
hostnameOverride: n$1
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {minSyncPeriod: 0s}
YAML
}
each_node node_files

node_groups() {
  [ "$1" -le "$NODES" ] || return 0
  if [ "$(groups_version)" = 2 ]; then
    for controller in cpuset cpu io memory hugetlb pids; do
      # Those that the kernel has; in a container whose own processes sit in the top group it refuses, and kubelet will say so.
      echo "+$controller" 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control || true
    done
  fi
  for group in $(groups_of "$1"); do
    mkdir -p "$group"
    # A new cpuset of version 1 is empty, and nothing may run in it.
    for file in cpuset.mems cpuset.cpus; do
      [ ! -f "$group/cgroup.clone_children" ] || [ ! -f "$group/$file" ] || cat "${group%/*}/$file" >"$group/$file"
    done
  done
}
each_node node_groups

node_containers() {
  [ "$1" -le "$NODES" ] || return 0
  start "containerd-n$1" "$(node_space "$1")" containerd --config "$etc/n$1/containerd.toml"
}
each_node node_containers

up() { curl -sf --max-time 2 --cacert "$pki/ca.crt" --cert "$pki/admin.crt" --key "$pki/admin.key" "https://$api$1"; }
await 1200 up /readyz || fail "the API server is not ready; see $log/apiserver.log: $(tail -n 1 "$log/apiserver.log")"
step "API server ready"

start controller-manager "$first" "$bin/kube-controller-manager" --kubeconfig="$pki/controller-manager.kubeconfig" \
  --leader-elect=false --service-account-private-key-file="$pki/sa.key" --root-ca-file="$pki/ca.crt" \
  --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
  --use-service-account-credentials=true --cluster-cidr=10.244.0.0/16 --allocate-node-cidrs=false \
  --node-monitor-grace-period="${NODE_GRACE:-20s}" --node-monitor-period=2s --bind-address=127.0.0.1
start scheduler "$first" "$bin/kube-scheduler" --kubeconfig="$pki/scheduler.kubeconfig" --leader-elect=false \
  --bind-address=127.0.0.1
export BED_API="$api" BED_PKI="$pki" BED_DNS="$dns" BED_VOLUMES="$var/volumes"
start dns "$first" python3 -B "$here/bed/dns.py"
start provisioner "$first" python3 -B "$here/bed/provisioner.py"

NODES=$NODES "$here/images.sh" pause
node_kubelet() {
  [ "$1" -le "$NODES" ] || return 0
  start "kubelet-n$1" "$(node_space "$1")" "$bin/kubelet" --config="$etc/n$1/kubelet.yaml" \
    --kubeconfig="$pki/node$1.kubeconfig" --hostname-override="n$1" --node-ip="$(node_address "$1")" \
    --node-labels="topology.kubernetes.io/region=bed,topology.kubernetes.io/zone=z$1" \
    --root-dir="$var/n$1/kubelet" --cert-dir="$var/n$1/kubelet-pki"
  start "proxy-n$1" "$(node_space "$1")" "$bin/kube-proxy" --config="$etc/n$1/proxy.yaml"
}
each_node node_kubelet

export KUBECONFIG="$kubeconfig"
kubectl apply --filename "$here/bed/storage.yaml" >/dev/null
ready() { [ "$(kubectl get nodes --no-headers 2>/dev/null | grep -c ' Ready')" -ge "$NODES" ]; }
await 1200 ready || fail "not all nodes became Ready; see $log/kubelet-n1.log"
step "$NODES nodes Ready"
NODES=$NODES "$here/images.sh" all
step "images there"

# A user who came through sudo owns the way in.
if [ -n "${SUDO_UID:-}" ]; then
  chmod 711 "$pki"
  chown "$SUDO_UID" "$kubeconfig"
fi
kubectl get nodes --output wide
cat <<TEXT

    export KUBECONFIG=$kubeconfig PATH=$bin:\$PATH
    make kube-test    # the suite against it
    make kube-down    # removes everything that this made
TEXT
