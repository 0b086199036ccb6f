#!/usr/bin/env bash
#
# Builds the three artifacts of the demonstration, hello.jar, hello.war and hello, in a directory,
# if they are missing or older than their sources.
#
#   build.sh OUTDIR

set -euo pipefail
umask 022

# Fixed, so that the same sources give the same archive, and a second demonstration finds its
# artifacts and images already there. ZIP has no earlier time.
readonly ENTRY_TIME=1980-01-01T00:00:02Z

[ $# -eq 1 ] || { echo "usage: ${0##*/} OUTDIR" >&2; exit 2; }
sources=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$(mktemp -d "$out/build.XXXXXX")
trap 'rm -rf "$work"' EXIT

# stale FILE SOURCES: whether FILE must be built.
stale() {
  [ ! -e "$1" ] || [ -n "$(find "$2" "$0" -newer "$1" -print -quit)" ]
}

if stale "$out/hello.jar" "$sources/hello-jar"; then
  echo "building hello.jar"
  javac --release 17 -d "$work/classes" "$sources/hello-jar/Hello.java"
  jar --create --file "$work/hello.jar" --date="$ENTRY_TIME" --main-class Hello -C "$work/classes" .
  mv "$work/hello.jar" "$out/hello.jar"
fi

if stale "$out/hello.war" "$sources/hello-war"; then
  echo "building hello.war"
  jar --create --file "$work/hello.war" --date="$ENTRY_TIME" -C "$sources/hello-war" .
  mv "$work/hello.war" "$out/hello.war"
fi

if stale "$out/hello" "$sources/hello-binary"; then
  echo "building hello"
  rustc --edition 2024 -O -C target-feature=+crt-static -C strip=symbols \
    -o "$work/hello" "$sources/hello-binary/hello.rs"
  # An interpreter would have to be in the base image, and there is none in a static one.
  if readelf --wide --program-headers "$work/hello" | grep -q INTERP; then
    echo "hello is not a static binary" >&2
    exit 1
  fi
  mv "$work/hello" "$out/hello"
fi
