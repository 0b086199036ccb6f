# shellcheck shell=bash
#
# Root file systems from Debian's packages, for ../base-images.sh.
#
# The caller sets $cache and $work.

# The options of mmdebstrap. A change here makes new root file systems. A change elsewhere makes new
# images around the old ones.
# shellcheck disable=SC2016,SC2054 # $1 is for the hooks to expand; the commas are mmdebstrap's
readonly JAVA_ROOTFS_OPTIONS=(
  --variant=essential
  --format=tar
  # A runtime makes its own devices, and unpacking these would need root.
  --skip=output/dev
  # tomcat10 needs systemd-sysusers and systemd-tmpfiles. The standalone ones work without systemd.
  --include=openjdk-17-jre-headless,tomcat10,systemd-standalone-sysusers,systemd-standalone-tmpfiles,ca-certificates,tzdata
  --aptopt='Acquire::Languages "none"'
  # The tree is discarded if anything fails, so nothing in it needs to survive a power failure.
  --dpkgopt=force-unsafe-io
  --dpkgopt='path-exclude=/usr/share/doc/*'
  --dpkgopt='path-include=/usr/share/doc/*/copyright'
  --dpkgopt='path-exclude=/usr/share/info/*'
  --dpkgopt='path-exclude=/usr/share/lintian/*'
  --dpkgopt='path-exclude=/usr/share/locale/*'
  --dpkgopt='path-exclude=/usr/share/man/*'
  # Without this hook the package usrmerge does the same, and brings all of perl with it.
  --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr
  # openjdk's installation links its manual pages and fails when their directory is not there.
  --essential-hook='mkdir -p "$1/usr/share/man/man1"'
  # All inside the tree, because from here an absolute link in it points at this machine's files.
  --customize-hook='chroot "$1" sh -eu -c "$CUSTOMIZE_ROOTFS"'
)

# The last steps inside the new root file system: Java gets its path from the images of Eclipse
# Temurin. 20 MB for javac and for heaps above 32 GB are removed, and so are files that hold the
# time.
readonly JAVA_ROOTFS_CUSTOMIZATION='
  mkdir -p /opt/java
  ln -s /usr/lib/jvm/java-17-openjdk-* /opt/java/openjdk
  rm -f /opt/java/openjdk/lib/ct.sym /opt/java/openjdk/lib/server/classes_nocoops.jsa
  rm -f /var/cache/ldconfig/aux-cache
  find /var/log -type f -delete
'

# The same without Java and Tomcat, for runtimes that are not Debian's. Java's fonts need fontconfig,
# which the public images have as well.
readonly PLAIN_ROOTFS_OPTIONS=(
  "${JAVA_ROOTFS_OPTIONS[@]/#--include=*/--include=ca-certificates,fontconfig,tzdata}"
)
readonly PLAIN_ROOTFS_CUSTOMIZATION='
  rm -f /var/cache/ldconfig/aux-cache /var/cache/fontconfig/*
  find /var/log -type f -delete
'

# add_java_rootfs, add_plain_rootfs: make the root file system if the cache has none, add it as the
# layer `java-rootfs` or `plain-rootfs`, and set $rootfs to its file.
add_java_rootfs() {
  add_rootfs java-rootfs 'stand-in: Debian 12 with openjdk-17-jre-headless and tomcat10' \
    "$JAVA_ROOTFS_CUSTOMIZATION" "${JAVA_ROOTFS_OPTIONS[@]}"
}

add_plain_rootfs() {
  add_rootfs plain-rootfs 'stand-in: Debian 12' \
    "$PLAIN_ROOTFS_CUSTOMIZATION" "${PLAIN_ROOTFS_OPTIONS[@]}"
}

# rootfs_path CUSTOMIZATION OPTION...: where the root file system that these make is kept.
rootfs_path() { echo "$cache/rootfs-$(printf '%s\n' "$@" | digest_of | cut -c1-16).tar.gz"; }

# add_rootfs NAME COMMENT CUSTOMIZATION OPTION...
add_rootfs() {
  local name=$1 comment=$2 diff
  shift 2
  rootfs=$(rootfs_path "$@")
  [ -f "$rootfs" ] || make_rootfs "$rootfs" "$@"
  diff=$(gzip -dc "$rootfs" | sha256sum | cut -d' ' -f1)
  # Linked, so that the biggest file is on disk only once.
  ln "$rootfs" "$work/$name.tar.gz"
  add_layer "$name" "$work/$name.tar.gz" "$diff" "$comment"
}

# make_rootfs PATH CUSTOMIZATION OPTION...
make_rootfs() {
  local path=$1 mirror=()
  export CUSTOMIZE_ROOTFS=$2
  shift 2
  [ -z "${SLIPWAY_DEBIAN_MIRROR:-}" ] || mirror=("$SLIPWAY_DEBIAN_MIRROR")
  say "making a root file system from Debian packages, once; this takes about a minute"
  if ! SOURCE_DATE_EPOCH=$EPOCH mmdebstrap "$@" bookworm - "${mirror[@]}" \
    2>"$work/mmdebstrap.log" | gzip -n -1 >"$work/rootfs.tar.gz"; then
    tail -n 20 "$work/mmdebstrap.log" >&2
    die "mmdebstrap failed"
  fi
  sync "$work/rootfs.tar.gz"
  mv "$work/rootfs.tar.gz" "$path"
}
