#!/usr/bin/env bash
#
# Runs the suite of the artifact store, and builds of the real programs, against a real S3 server.
#
# The server is the Versity gateway over a directory: a server and not a simulator, with checked
# signatures, multipart uploads and copies, and one program that the Go module proxy serves. Its
# compilation takes minutes and a recent Go, which is why `make test` does not include this.
# SLIPWAY_S3_SERVER names a versitygw that is installed already.

set -euo pipefail
cd "$(dirname "$0")/.."

readonly VERSION=v1.8.0
readonly READY_SECONDS=30
readonly TOOLS=$PWD/.slipway/tools

server=${SLIPWAY_S3_SERVER:-$(command -v versitygw || echo "$TOOLS/versitygw")}
if [ ! -x "$server" ]; then
  GOBIN=$TOOLS go install "github.com/versity/versitygw/cmd/versitygw@$VERSION"
fi

directory=$(mktemp -d)
server_pid=
clean_up() {
  [ -z "$server_pid" ] || { kill "$server_pid"; wait "$server_pid" || true; }
  rm -rf "$directory"
}
trap clean_up EXIT

# A bucket of the gateway is a directory.
mkdir -p "$directory/data/slipway"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export AWS_ACCESS_KEY_ID=slipway AWS_SECRET_ACCESS_KEY=slipway-secret AWS_REGION=us-east-1
export AWS_ENDPOINT=http://127.0.0.1:$port AWS_ALLOW_HTTP=true
ROOT_ACCESS_KEY=$AWS_ACCESS_KEY_ID ROOT_SECRET_KEY=$AWS_SECRET_ACCESS_KEY \
  "$server" --port "127.0.0.1:$port" --region "$AWS_REGION" posix "$directory/data" \
  >"$directory/server.log" 2>&1 &
server_pid=$!
for ((waited = 0; ; waited++)); do
  # Refused for want of a signature, which only a server that is ready does.
  [ "$(curl -s -o "$directory/answer" -w '%{http_code}' "$AWS_ENDPOINT/slipway" || true)" != 403 ] || break
  if [ $waited -eq $((READY_SECONDS * 10)) ]; then
    cat "$directory/server.log" "$directory/answer" >&2
    exit 1
  fi
  sleep 0.1
done

export SLIPWAY_TEST_STORE=s3://slipway
cargo test --locked --package slipway-artifact --features s3 store::
cargo build --locked --package slipway-dispatcher --package slipway-worker --bins --features s3
dev/base-images.sh --prepare
cargo test --locked --package slipway-tests --test e2e -- images::golden_digests_hold \
  images::two_workers images::a_spring_boot
stored=$(find "$directory/data/slipway" -path '*/blobs/sha256/*' -type f | wc -l)
[ "$stored" -gt 0 ] || { echo "test-s3: the builds stored nothing on the server" >&2; exit 1; }
echo "test-s3: the store and the builds passed against versitygw; $stored artifacts stored"
