#!/bin/sh
# Certificates and kubeconfigs of the bed: one authority, one key pair per part, all under $bed/pki. Made once.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

mkdir -p "$pki"
chmod 700 "$pki"
cd "$pki"
[ ! -f complete ] || exit 0

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

key ca.key
openssl req -x509 -new -key ca.key -out ca.crt -subj /CN=kvbed-ca -days 3650
key sa.key
openssl pkey -in sa.key -pubout -out sa.pub

# pair NAME SUBJECT [NAMES]: a certificate for both ends of TLS
pair() {
  key "$1.key"
  {
    echo "basicConstraints=CA:FALSE"
    echo "keyUsage=digitalSignature"
    echo "extendedKeyUsage=clientAuth,serverAuth"
    [ -z "${3:-}" ] || echo "subjectAltName=$3"
  } >"$1.ext"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$1.crt" -days 3650 -extfile "$1.ext" 2>/dev/null
  rm "$1.csr" "$1.ext"
}

# kubeconfig NAME: for the holder of the pair NAME
kubeconfig() {
  cat >"$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: kvbed, cluster: {server: "https://$api", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: kvbed, context: {cluster: kvbed, user: $1}}]
current-context: kvbed
YAML
}

service=kubernetes.default.svc
pair apiserver /CN=kube-apiserver \
  "DNS:kubernetes,DNS:kubernetes.default,DNS:$service,DNS:$service.cluster.local,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:${api%:*}"
pair apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client
pair admin /O=system:masters/CN=admin
pair controller-manager /CN=system:kube-controller-manager
pair scheduler /CN=system:kube-scheduler
pair proxy /CN=system:kube-proxy
node_pair() { pair "node$1" "/O=system:nodes/CN=system:node:n$1" "DNS:n$1,IP:$(node_address "$1")"; }
each_node node_pair

for holder in admin controller-manager scheduler proxy; do kubeconfig $holder; done
node_config() { kubeconfig "node$1"; }
each_node node_config
touch complete
