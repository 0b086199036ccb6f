#!/usr/bin/env bash
#
# Prints the path of a registry other than Debian's docker-registry, for the tests that push to
# several.
#
#   registry.sh distribution     the registry of github.com/distribution/distribution, version 3
#   registry.sh ggcr             the one of github.com/google/go-containerregistry, in memory
#
# Each is compiled from source once for each version, by the Go toolchain of this machine through the
# Go module proxy, and kept in
#   ${XDG_CACHE_HOME:-$HOME/.cache}/slipway/registry/NAME/VERSION/
# go-containerregistry's takes seconds, distribution's takes minutes.

set -euo pipefail

die() { printf 'registry: %s\n' "$*" >&2; exit 1; }

[ $# -eq 1 ] || die "usage: registry.sh distribution|ggcr"
readonly NAME=$1
case $NAME in
  distribution) module=github.com/distribution/distribution/v3/cmd/registry version=v3.1.2 ;;
  ggcr) module=github.com/google/go-containerregistry/cmd/registry version=v0.22.1 ;;
  *) die "no such registry: $NAME" ;;
esac
readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/slipway/registry/$NAME
readonly PROGRAM=$CACHE/$version/registry

if [ ! -x "$PROGRAM" ]; then
  command -v go >/dev/null || die "install a recent Go to compile $module"
  mkdir -p "$CACHE/$version"
  work=$(mktemp -d "$CACHE/$version/building.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  GOBIN=$work go install "$module@$version" >&2 || die "$module@$version cannot be compiled"
  # By a rename, because another run of this script may do the same.
  mv -f "$work/registry" "$PROGRAM"
fi

printf '%s\n' "$PROGRAM"
