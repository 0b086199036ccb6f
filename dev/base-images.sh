#!/usr/bin/env bash
#
# Makes stand-ins for the public base images from Debian packages, so that every environment can be
# tried, tested and demonstrated without any outside registry.
#
#   base-images.sh REGISTRY [IMAGE...]   pushes all images (or the named ones) that REGISTRY lacks,
#                                        as REGISTRY/<original registry>/<repository>:<tag>
#   base-images.sh --prepare             only fills the cache
#   base-images.sh --list                prints the names of the images
#
# The label dev.slipway.stand-in says what an image really holds: it has the paths, user, ports and
# environment variables of the public image, not its files.
#
# The images are kept between runs as one OCI layout:
#   ${SLIPWAY_BASE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/slipway/base-images}
# SLIPWAY_DEBIAN_MIRROR names another Debian mirror than mmdebstrap's default.

set -euo pipefail
umask 022
export LC_ALL=C
# Debian keeps some of these commands where only root's PATH looks.
PATH=$PATH:/usr/sbin:/sbin

# One second after the epoch: the time of every file and image, so that the same packages give the
# same digests.
readonly EPOCH=1
readonly CREATED=1970-01-01T00:00:01Z
readonly SYSTEM_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
readonly JAVA_HOME_IN_IMAGE=/opt/java/openjdk
readonly JAVA_STAND_IN=openjdk-17
readonly TOMCAT_STAND_IN='openjdk-17 tomcat-10.1'

readonly IMAGES=(
  docker.io/library/eclipse-temurin:17-jre
  docker.io/library/eclipse-temurin:21-jre
  docker.io/library/tomcat:10.1-jre17-temurin
  docker.io/library/tomcat:10.1-jre21-temurin
  gcr.io/distroless/static-debian12:nonroot
  gcr.io/distroless/cc-debian12:nonroot
  docker.io/kubesphere/java-8-runtime:v2.1.0
  docker.io/kubesphere/java-11-runtime:v2.1.0
  docker.io/kubesphere/tomcat85-java8-runtime:v2.1.0
  docker.io/kubesphere/tomcat85-java11-runtime:v2.1.0
  docker.io/kubesphere/s2i-binary:v2.1.0
)

# The last steps inside the new root file system: Java gets its path from the images of Eclipse
# Temurin. 20 MB for javac and for heaps above 32 GB are removed, and so are files that hold the
# time.
readonly CUSTOMIZE_ROOTFS='
  mkdir -p /opt/java
  ln -s /usr/lib/jvm/java-17-openjdk-* /opt/java/openjdk
  rm -f /opt/java/openjdk/lib/ct.sym /opt/java/openjdk/lib/server/classes_nocoops.jsa
  rm -f /var/cache/ldconfig/aux-cache
  find /var/log -type f -delete
'

# The options of mmdebstrap. A change here makes a new root file system. A change elsewhere in this
# file makes new images around the old one.
# shellcheck disable=SC2016,SC2054 # $1 is for the hooks to expand; the commas are mmdebstrap's
readonly ROOTFS_OPTIONS=(
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

say() { printf 'base-images: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

usage() { sed -n '3,/^$/s/^# \{0,1\}//p' "$0"; }

digest_of() { sha256sum "$@" | cut -d' ' -f1; }

# --- blobs, layers and images of the OCI layout that is being made -----------------------------

# add_blob FILE: moves FILE into the layout and prints its descriptor without a media type.
add_blob() {
  local digest size
  digest=$(digest_of "$1")
  size=$(stat -c %s "$1")
  mv -f "$1" "$layout/blobs/sha256/$digest"
  jq -cn --arg digest "sha256:$digest" --argjson size "$size" '{digest: $digest, size: $size}'
}

# add_layer NAME FILE.tar.gz DIFF_ID COMMENT: adds a layer and remembers it under NAME.
add_layer() {
  local descriptor
  descriptor=$(add_blob "$2")
  jq -cn --argjson descriptor "$descriptor" --arg diff "sha256:$3" --arg comment "$4" --arg at "$CREATED" '{
    descriptor: ({mediaType: "application/vnd.oci.image.layer.v1.tar+gzip"} + $descriptor),
    diff_id: $diff,
    history: {created: $at, created_by: $comment}
  }' >"$work/$1.layer"
}

# pack NAME COMMENT [UID:GID:PATH...]: makes a layer of the directory $work/NAME. Everything in it
# belongs to root, except the PATHs and their contents, which belong to UID:GID.
pack() {
  local name=$1 comment=$2 tar=$work/$1.tar owned owner
  shift 2
  local not=()
  for owned in "$@"; do not+=(-not -path "./${owned##*:}" -not -path "./${owned##*:}/*"); done
  pack_entries "$work/$name" "$tar" 0 0 . "${not[@]}"
  for owned in "$@"; do
    owner=${owned%:*}
    pack_entries "$work/$name" "$tar" "${owner%:*}" "${owner#*:}" "${owned##*:}"
  done
  local diff
  diff=$(digest_of "$tar")
  gzip -n -9 "$tar"
  add_layer "$name" "$tar.gz" "$diff" "$comment"
}

# pack_entries DIRECTORY TAR UID GID START [FIND_TEST...]: appends what find finds from START on.
pack_entries() {
  local directory=$1 tar=$2 uid=$3 gid=$4
  shift 4
  (cd "$directory" && find "$@" -not -path . -print0) | sed --null-data 's|^\./||' | sort --zero-terminated |
    tar --append --file "$tar" --directory "$directory" --null --files-from=- --no-recursion \
      --format=gnu --mtime="@$EPOCH" --owner="$uid" --group="$gid" --numeric-owner
}

# add_image NAME LAYER...: adds an image of these layers with the runtime config on standard input.
add_image() {
  local name=$1 layers=() layer descriptor
  shift
  for layer in "$@"; do layers+=("$work/$layer.layer"); done
  jq -cS --slurpfile layers <(cat "${layers[@]}") --arg at "$CREATED" --arg arch "$architecture" '{
    created: $at, architecture: $arch, os: "linux", config: .,
    rootfs: {type: "layers", diff_ids: [$layers[].diff_id]},
    history: [$layers[].history]
  }' >"$work/config"
  descriptor=$(add_blob "$work/config")
  jq -cn --slurpfile layers <(cat "${layers[@]}") --argjson config "$descriptor" '{
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: ({mediaType: "application/vnd.oci.image.config.v1+json"} + $config),
    layers: [$layers[].descriptor]
  }' >"$work/manifest"
  descriptor=$(add_blob "$work/manifest")
  jq -cn --argjson manifest "$descriptor" --arg name "$name" '
    {mediaType: "application/vnd.oci.image.manifest.v1+json"} + $manifest
    + {annotations: {"org.opencontainers.image.ref.name": $name}}' >>"$work/manifests"
}

# --- the root file system ------------------------------------------------------------------------

make_rootfs() {
  local mirror=()
  [ -z "${SLIPWAY_DEBIAN_MIRROR:-}" ] || mirror=("$SLIPWAY_DEBIAN_MIRROR")
  say "making a root file system from Debian packages, once; this takes about a minute"
  export CUSTOMIZE_ROOTFS
  if ! SOURCE_DATE_EPOCH=$EPOCH mmdebstrap "${ROOTFS_OPTIONS[@]}" bookworm - "${mirror[@]}" \
    2>"$work/mmdebstrap.log" | gzip -n -1 >"$work/rootfs.tar.gz"; then
    tail -n 20 "$work/mmdebstrap.log" >&2
    die "mmdebstrap failed"
  fi
  sync "$work/rootfs.tar.gz"
  mv "$work/rootfs.tar.gz" "$rootfs"
}

# --- overlays: what an original has on top of the root file system -----------------------------

# tomcat_home DIRECTORY: the layout of Apache Tomcat's own archive around Debian's files.
tomcat_home() {
  local home=$work/$1 file
  mkdir -p "$home"/{bin,webapps,conf/Catalina/localhost,logs,temp,work}
  ln -s /usr/share/tomcat10/lib "$home/lib"
  for file in bootstrap.jar catalina.sh setclasspath.sh tomcat-juli.jar version.sh; do
    ln -s "/usr/share/tomcat10/bin/$file" "$home/bin/$file"
  done
  for file in catalina.properties context.xml logging.properties web.xml; do
    ln -s "/usr/share/tomcat10/etc/$file" "$home/conf/$file"
  done
  # No shutdown port: a container is stopped by a signal. The port can be set by a system property,
  # for a container that shares its host's network.
  cat >"$home/conf/server.xml" <<'XML'
<?xml version="1.0" encoding="UTF-8"?>
<Server port="-1">
  <Service name="Catalina">
    <Connector port="${port.http:-8080}" protocol="HTTP/1.1"/>
    <Engine name="Catalina" defaultHost="localhost">
      <Host name="localhost" appBase="webapps" unpackWARs="true" autoDeploy="false"/>
    </Engine>
  </Service>
</Server>
XML
  # As in the public image: any user can run it.
  chmod 0777 "$home"/{logs,temp,work}
}

overlay_tomcat() {
  tomcat_home tomcat/usr/local/tomcat
  pack tomcat 'stand-in: layout of /usr/local/tomcat'
}

overlay_kubesphere_java() {
  local root=$work/kubesphere-java
  mkdir -p "$root"/{deployments,opt/run-java/deployments,usr/local/s2i}
  cat >"$root/opt/run-java/run-java.sh" <<'SH'
#!/bin/sh
# Stand-in: runs the one JAR (or JAVA_APP_JAR, or JAVA_MAIN_CLASS) of the deployments directory.
set -eu
directory=${JAVA_APP_DIR:-/opt/run-java/deployments}
cd "$directory"
# JAVA_OPTIONS holds several words.
# shellcheck disable=SC2086
if [ -n "${JAVA_MAIN_CLASS:-}" ]; then
  exec java ${JAVA_OPTIONS:-} -cp "${JAVA_CLASSPATH:-.:*}" "$JAVA_MAIN_CLASS" "$@"
fi
jar=${JAVA_APP_JAR:-}
if [ -z "$jar" ]; then
  for file in *.jar; do
    [ -e "$file" ] || { echo "no JAR in $directory" >&2; exit 1; }
    [ -z "$jar" ] || { echo "more than one JAR in $directory; set JAVA_APP_JAR" >&2; exit 1; }
    jar=$file
  done
fi
case $jar in /*) ;; *) jar=$directory/$jar ;; esac
# shellcheck disable=SC2086
exec java ${JAVA_OPTIONS:-} -cp . -jar "$jar" "$@"
SH
  cat >"$root/usr/local/s2i/run" <<'SH'
#!/bin/sh
# shellcheck disable=SC2086
exec /opt/run-java/run-java.sh ${JAVA_ARGS:-}
SH
  chmod 0755 "$root"/{opt/run-java/run-java.sh,usr/local/s2i/run}
  pack kubesphere-java 'stand-in: /opt/run-java and /usr/local/s2i'
}

overlay_kubesphere_tomcat() {
  local root=$work/kubesphere-tomcat
  tomcat_home kubesphere-tomcat/opt/apache-tomcat-8.5.32
  ln -s /opt/apache-tomcat-8.5.32 "$root/opt/tomcat"
  mkdir -p "$root"/{deployments,usr/local/s2i}
  cat >"$root/usr/local/s2i/run" <<'SH'
#!/bin/sh
# Stand-in: serves every WAR of the deployments directory at its own name.
for war in "${DEPLOY_DIR:-/deployments}"/*.war; do
  [ ! -e "$war" ] || ln -sf "$war" /opt/tomcat/webapps/
done
export CATALINA_OPTS="${CATALINA_OPTS:-} ${JAVA_OPTIONS:-}"
exec /opt/tomcat/bin/catalina.sh run
SH
  chmod 0755 "$root/usr/local/s2i/run"
  pack kubesphere-tomcat 'stand-in: /opt/tomcat and /usr/local/s2i'
}

overlay_kubesphere_binary() {
  local root=$work/kubesphere-binary
  mkdir -p "$root"/{opt/app-root/src/bin,opt/app-root/bin,usr/libexec/s2i}
  cat >"$root/usr/libexec/s2i/run" <<'SH'
#!/bin/sh
# Stand-in: runs the binary, made executable first if it is not.
binary=/opt/app-root/src/bin/binary
[ -x "$binary" ] || chmod +x "$binary"
# shellcheck disable=SC2086
exec "$binary" ${ARGS:-}
SH
  chmod 0755 "$root/usr/libexec/s2i/run"
  pack kubesphere-binary 'stand-in: /opt/app-root and /usr/libexec/s2i' 1001:0:opt/app-root
}

# The files of the distroless images are the same Debian packages' files.
overlay_distroless() {
  local static=$work/distroless-static cc=$work/distroless-cc
  mkdir -p "$work/packages" "$static"/{dev,etc,home/nonroot,proc,root,run,sys,tmp,var/tmp} \
    "$static"/usr/{bin,lib,lib64,sbin}
  mkdir -p "$cc"
  tar --extract --gzip --file "$rootfs" --directory "$work/packages" --no-same-owner \
    --wildcards ./etc/ssl/certs/ca-certificates.crt ./usr/share/zoneinfo ./usr/lib/os-release \
    './var/lib/dpkg/info/*.list' './usr/lib/*-linux-gnu*/*.so*' './usr/lib*/ld-linux*'

  (cd "$work/packages" && cp -a --parents etc/ssl/certs usr/share/zoneinfo usr/lib/os-release "$static")
  ln -s ../usr/lib/os-release "$static/etc/os-release"
  ln -s usr/bin usr/lib usr/lib64 usr/sbin "$static"
  printf '%s\n' root:x:0:0:root:/root:/sbin/nologin \
    nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin \
    nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin >"$static/etc/passwd"
  printf '%s\n' root:x:0: nobody:x:65534: tty:x:5: staff:x:50: nonroot:x:65532: >"$static/etc/group"
  echo 'hosts: files dns' >"$static/etc/nsswitch.conf"
  chmod 1777 "$static"/{tmp,var/tmp}
  chmod 0700 "$static"/{root,home/nonroot}
  pack distroless-static 'stand-in: passwd, ca-certificates, tzdata' 65532:65532:home/nonroot

  # The lists know libraries by /lib, the root file system by /usr/lib; plug-ins such as
  # libc6's character sets were not extracted and so are left out.
  (
    cd "$work/packages"
    cat var/lib/dpkg/info/{libc6,libgcc-s1,libssl3,libstdc++6}:"$architecture".list |
      sed -n 's|^/\(usr/\)\{0,1\}\(lib[^/]*/.*\)|usr/\2|p' | sort -u |
      while read -r file; do
        [ -d "$file" ] || [ ! -e "$file" ] || printf '%s\0' "$file"
      done | xargs -0 cp -a --parents -t "$cc"
  )
  pack distroless-cc 'stand-in: libc6, libgcc-s1, libssl3, libstdc++6'
}

# --- all of it -----------------------------------------------------------------------------------

make_images() {
  local diff tag
  architecture=$(dpkg --print-architecture)
  layout=$work/layout
  mkdir -p "$layout/blobs/sha256"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"

  # Linked, so that the biggest file is on disk only once.
  ln "$rootfs" "$work/rootfs-link"
  diff=$(gzip -dc "$rootfs" | sha256sum | cut -d' ' -f1)
  add_layer rootfs "$work/rootfs-link" "$diff" 'stand-in: Debian 12 with openjdk-17-jre-headless and tomcat10'
  overlay_tomcat
  overlay_distroless
  overlay_kubesphere_java
  overlay_kubesphere_tomcat
  overlay_kubesphere_binary

  for tag in 17 21; do
    add_image "docker.io/library/eclipse-temurin:$tag-jre" rootfs <<JSON
{"Env": ["PATH=$JAVA_HOME_IN_IMAGE/bin:$SYSTEM_PATH", "JAVA_HOME=$JAVA_HOME_IN_IMAGE",
         "LANG=C.UTF-8", "LC_ALL=C.UTF-8"],
 "Labels": {"dev.slipway.stand-in": "$JAVA_STAND_IN"}}
JSON
    add_image "docker.io/library/tomcat:10.1-jre$tag-temurin" rootfs tomcat <<JSON
{"Env": ["PATH=/usr/local/tomcat/bin:$JAVA_HOME_IN_IMAGE/bin:$SYSTEM_PATH",
         "JAVA_HOME=$JAVA_HOME_IN_IMAGE", "LANG=C.UTF-8", "LC_ALL=C.UTF-8",
         "CATALINA_HOME=/usr/local/tomcat", "TOMCAT_MAJOR=10"],
 "WorkingDir": "/usr/local/tomcat", "ExposedPorts": {"8080/tcp": {}}, "Cmd": ["catalina.sh", "run"],
 "Labels": {"dev.slipway.stand-in": "$TOMCAT_STAND_IN"}}
JSON
  done

  for tag in static cc; do
    local layers=(distroless-static)
    [ "$tag" = static ] || layers+=(distroless-cc)
    add_image "gcr.io/distroless/$tag-debian12:nonroot" "${layers[@]}" <<JSON
{"Env": ["PATH=$SYSTEM_PATH", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
 "User": "65532", "WorkingDir": "/home/nonroot",
 "Labels": {"dev.slipway.stand-in": "debian-12 $tag"}}
JSON
  done

  local s2i_labels='"io.openshift.s2i.scripts-url": "image:///usr/local/s2i",
    "io.kubesphere.s2i.scripts-url": "image:///usr/local/s2i",
    "io.openshift.s2i.destination": "/tmp", "io.kubespehre.s2i.destination": "/tmp",
    "io.openshift.s2i.assemble-input-files": "/deployments",
    "com.yunify.deployments-dir": "/deployments", "org.jboss.deployments-dir": "/deployments"'
  for tag in 8 11; do
    add_image "docker.io/kubesphere/java-$tag-runtime:v2.1.0" rootfs kubesphere-java <<JSON
{"Env": ["PATH=$JAVA_HOME_IN_IMAGE/bin:$SYSTEM_PATH:/usr/local/s2i",
         "JAVA_HOME=$JAVA_HOME_IN_IMAGE", "LANG=C.UTF-8"],
 "WorkingDir": "/usr/local/s2i", "ExposedPorts": {"8080/tcp": {}}, "Cmd": ["/usr/local/s2i/run"],
 "Labels": {"dev.slipway.stand-in": "$JAVA_STAND_IN", $s2i_labels}}
JSON
    add_image "docker.io/kubesphere/tomcat85-java$tag-runtime:v2.1.0" rootfs kubesphere-tomcat <<JSON
{"Env": ["PATH=$JAVA_HOME_IN_IMAGE/bin:$SYSTEM_PATH:/opt/tomcat/bin",
         "JAVA_HOME=$JAVA_HOME_IN_IMAGE", "LANG=C.UTF-8",
         "TOMCAT_VERSION=8.5.32", "CATALINA_HOME=/opt/tomcat"],
 "User": "root", "ExposedPorts": {"8080/tcp": {}}, "Cmd": ["/usr/local/s2i/run"],
 "Volumes": {"/opt/tomcat/logs": {}, "/opt/tomcat/temp": {}, "/opt/tomcat/work": {},
             "/tmp/hsperfdata_root": {}},
 "Labels": {"dev.slipway.stand-in": "$TOMCAT_STAND_IN", $s2i_labels}}
JSON
  done
  add_image docker.io/kubesphere/s2i-binary:v2.1.0 rootfs kubesphere-binary <<JSON
{"Env": ["PATH=/opt/app-root/src/bin:/opt/app-root/bin:$SYSTEM_PATH",
         "STI_SCRIPTS_PATH=/usr/libexec/s2i", "APP_ROOT=/opt/app-root", "HOME=/opt/app-root/src"],
 "User": "1001", "WorkingDir": "/opt/app-root/src", "Cmd": ["/usr/libexec/s2i/run"],
 "Labels": {"dev.slipway.stand-in": "debian-12", "io.openshift.s2i.destination": "/tmp",
            "io.openshift.s2i.scripts-url": "image:///usr/libexec/s2i",
            "io.kubesphere.s2i.scripts-url": "image:///usr/libexec/s2i"}}
JSON

  jq -cs '{schemaVersion: 2, manifests: .}' "$work/manifests" >"$layout/index.json"
  sync "$layout/index.json" "$layout"/blobs/sha256/*
  mv "$layout" "$images"
}

# Leaves exactly one complete set of images and its root file system in the cache. The names appear
# by a rename, so the rest of a killed run is never mistaken for a complete set.
prepare() {
  find "$cache" -mindepth 1 -maxdepth 1 -not -name lock -not -path "$rootfs" -exec rm -rf {} +
  work=$(mktemp -d "$cache/work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  local started=$SECONDS
  [ -f "$rootfs" ] || make_rootfs
  make_images
  rm -rf "$work"
  trap - EXIT
  say "made ${#IMAGES[@]} images in $((SECONDS - started)) s: $images"
}

# Prints the registry's digest of REPOSITORY:TAG, or nothing if there is none.
registry_digest() {
  local repository=${1%:*} tag=${1##*:}
  curl --silent --fail --head --noproxy localhost,127.0.0.1 --max-time 5 \
    --header 'Accept: application/vnd.oci.image.manifest.v1+json' \
    "http://$registry/v2/$repository/manifests/$tag" 2>/dev/null |
    tr -d '\r' | sed -n 's/^docker-content-digest: *//Ip' || true
}

push() {
  local name pushed=0 here
  for name in "$@"; do
    here=$(jq -r --arg name "$name" '.manifests[]
      | select(.annotations["org.opencontainers.image.ref.name"] == $name).digest' "$images/index.json")
    [ -n "$here" ] || die "there is no stand-in for $name; --list prints those there are"
    [ "$(registry_digest "$name")" != "$here" ] || continue
    # The policy file that skopeo expects may be missing, and these images have no signature.
    skopeo copy --quiet --insecure-policy --preserve-digests --dest-tls-verify=false \
      "oci:$images:$name" "docker://$registry/$name"
    pushed=$((pushed + 1))
  done
  say "$registry: $pushed pushed, $(($# - pushed)) already there"
}

case ${1:-} in
  --list) printf '%s\n' "${IMAGES[@]}"; exit ;;
  --help | -h) usage; exit ;;
  --prepare) registry= ;;
  '' | -*) usage >&2; exit 2 ;;
  *) registry=$1 ;;
esac
shift

cache=${SLIPWAY_BASE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/slipway/base-images}
mkdir -p "$cache"
rootfs=$cache/rootfs-$(printf '%s\n' "$CUSTOMIZE_ROOTFS" "${ROOTFS_OPTIONS[@]}" | digest_of | cut -c1-16).tar.gz
images=$cache/images-$(digest_of "$0" | cut -c1-16)

# Readers share the lock, and a maker holds it alone. Children inherit it on purpose: after a kill
# the next run waits for an orphaned mmdebstrap instead of working at the same time.
exec 9>>"$cache/lock"
lock() { flock "$1" --nonblock 9 || { say "waiting for another run"; flock "$1" 9; }; }
lock --shared
if [ ! -d "$images" ]; then
  flock --unlock 9
  lock --exclusive
  [ -d "$images" ] || prepare
  flock --shared 9
fi

[ -z "$registry" ] || if [ $# -gt 0 ]; then push "$@"; else push "${IMAGES[@]}"; fi
