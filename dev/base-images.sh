#!/usr/bin/env bash
#
# Makes stand-ins for the public base images, so that every environment can be tried, tested and
# demonstrated without any outside registry.
#
#   base-images.sh REGISTRY [IMAGE...]   pushes the named images that REGISTRY lacks, as
#                                        REGISTRY/<original registry>/<repository>:<tag>; without
#                                        names, those that the demonstration and the tests use
#   base-images.sh REGISTRY --jvm        pushes those of the other releases of Java and Tomcat
#   base-images.sh --prepare             only fills the cache with those that tests use
#   base-images.sh --list                prints the names of all images
#
# Images are made from Debian's packages, and those of other releases of Java and Tomcat, when one
# of them is asked for, from real runtimes and Tomcat's own distribution, which takes minutes once
# and needs Maven and pip. The label dev.slipway.stand-in says what an image really holds: it has
# the paths, user, ports and environment variables of the public image, not all of its files.
#
# The images are kept between runs as OCI layouts:
#   ${SLIPWAY_BASE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/slipway/base-images}
# SLIPWAY_DEBIAN_MIRROR names another Debian mirror than mmdebstrap's default.

set -euo pipefail
umask 022
export LC_ALL=C
# Debian keeps some of these commands where only root's PATH looks.
PATH=$PATH:/usr/sbin:/sbin

readonly SYSTEM_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
readonly JAVA_HOME_IN_IMAGE=/opt/java/openjdk

say() { printf 'base-images: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

usage() { sed -n '3,/^$/s/^# \{0,1\}//p' "$0"; }

parts=$(dirname "${BASH_SOURCE[0]}")/base-images
# shellcheck source=dev/base-images/layout.sh
. "$parts/layout.sh"
# shellcheck source=dev/base-images/debian.sh
. "$parts/debian.sh"
# shellcheck source=dev/base-images/stand-ins.sh
. "$parts/stand-ins.sh"
# shellcheck source=dev/base-images/jvm.sh
. "$parts/jvm.sh"

# --- groups: images that are made together -------------------------------------------------------

# group_of IMAGE: `stand-ins` or `jvm`.
group_of() {
  case " ${STAND_INS[*]} " in *" $1 "*) echo stand-ins; return ;; esac
  case " ${JVM_IMAGES[*]} " in *" $1 "*) echo jvm; return ;; esac
  die "there is no stand-in for $1; --list prints those there are"
}

# layout_of GROUP: where its images are kept. A change of what makes them makes new ones.
layout_of() {
  echo "$cache/$1-$(digest_of "$parts"/{layout,debian,"$1"}.sh | digest_of | cut -c1-16)"
}

# Leaves in the cache one complete set of each group's images, and the root file systems. The names
# appear by a rename, so the rest of a killed run is never mistaken for a complete set.
prepare() {
  local group=$1 images started=$SECONDS
  images=$(layout_of "$group")
  find "$cache" -mindepth 1 -maxdepth 1 -not -name lock \
    -not -path "$(layout_of stand-ins)" -not -path "$(layout_of jvm)" \
    -not -path "$(rootfs_path "$JAVA_ROOTFS_CUSTOMIZATION" "${JAVA_ROOTFS_OPTIONS[@]}")" \
    -not -path "$(rootfs_path "$PLAIN_ROOTFS_CUSTOMIZATION" "${PLAIN_ROOTFS_OPTIONS[@]}")" \
    -exec rm -rf {} +
  work=$(mktemp -d "$cache/work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  start_layout
  case $group in
    stand-ins) make_stand_ins ;;
    jvm) make_jvm_images ;;
  esac
  finish_layout "$images"
  rm -rf "$work"
  trap - EXIT
  say "made $(jq '.manifests | length' "$images/index.json") images in $((SECONDS - started)) s: $images"
}

# --- pushing -------------------------------------------------------------------------------------

# Prints the registry's digest of REPOSITORY:TAG, or nothing if there is none.
registry_digest() {
  local repository=${1%:*} tag=${1##*:}
  curl --silent --fail --head --noproxy localhost,127.0.0.1 --max-time 5 \
    --header 'Accept: application/vnd.oci.image.manifest.v1+json' \
    "http://$registry/v2/$repository/manifests/$tag" 2>/dev/null |
    tr -d '\r' | sed -n 's/^docker-content-digest: *//Ip' || true
}

push() {
  local name images pushed=0 here
  for name in "$@"; do
    images=$(layout_of "$(group_of "$name")")
    here=$(jq -r --arg name "$name" '.manifests[]
      | select(.annotations["org.opencontainers.image.ref.name"] == $name).digest' "$images/index.json")
    [ "$(registry_digest "$name")" != "$here" ] || continue
    # The policy file that skopeo expects may be missing, and these images have no signature.
    skopeo copy --quiet --insecure-policy --preserve-digests --dest-tls-verify=false \
      "oci:$images:$name" "docker://$registry/$name"
    pushed=$((pushed + 1))
  done
  say "$registry: $pushed pushed, $(($# - pushed)) already there"
}

case ${1:-} in
  --list) printf '%s\n' "${STAND_INS[@]}" "${JVM_IMAGES[@]}"; exit ;;
  --help | -h) usage; exit ;;
  --prepare) registry= ;;
  '' | -*) usage >&2; exit 2 ;;
  *) registry=$1 ;;
esac
shift
case ${1:-} in
  '') names=("${STAND_INS[@]}") ;;
  --jvm) names=("${JVM_IMAGES[@]}") ;;
  *) names=("$@") ;;
esac

cache=${SLIPWAY_BASE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/slipway/base-images}
mkdir -p "$cache"

# Readers share the lock, and a maker holds it alone. Children inherit it on purpose: after a kill
# the next run waits for an orphaned mmdebstrap instead of working at the same time.
exec 9>>"$cache/lock"
lock() { flock "$1" --nonblock 9 || { say "waiting for another run"; flock "$1" 9; }; }
lock --shared
for name in "${names[@]}"; do
  group=$(group_of "$name")
  images=$(layout_of "$group")
  if [ ! -d "$images" ]; then
    flock --unlock 9
    lock --exclusive
    [ -d "$images" ] || prepare "$group"
    flock --shared 9
  fi
done

[ -z "$registry" ] || push "${names[@]}"
