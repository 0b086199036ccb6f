# shellcheck shell=bash
#
# Blobs, layers and images of the OCI layout that is being made, for ../base-images.sh.
#
# The caller sets $work, a directory for what is not finished.

# One second after the epoch: the time of every file and image, so that the same packages give the
# same digests.
readonly EPOCH=1
readonly CREATED=1970-01-01T00:00:01Z

digest_of() { sha256sum "$@" | cut -d' ' -f1; }

start_layout() {
  architecture=$(dpkg --print-architecture)
  layout=$work/layout
  mkdir -p "$layout/blobs/sha256"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
}

# finish_layout DIRECTORY: moves the layout there, complete and on the disk.
finish_layout() {
  jq -cs '{schemaVersion: 2, manifests: .}' "$work/manifests" >"$layout/index.json"
  sync "$layout/index.json" "$layout"/blobs/sha256/*
  mv "$layout" "$1"
}

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
  # Level 9 takes twice the time of 6 for one percent.
  gzip -n -6 "$tar"
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
