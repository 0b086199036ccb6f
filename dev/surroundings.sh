# shellcheck shell=bash
#
# What the demonstration and the JVM projects start to run images: a docker-registry, `slipway dev`
# (nats-server, dispatcher, worker) and podman, all of them on free loopback ports. Nothing is left
# running.
#
# The caller runs in the project's directory, and sets STATE to a directory for the files of all
# these, and NAME to what its messages begin with.

# Debian keeps nats-server, runc and others where only root's PATH looks.
export PATH=$PATH:/usr/sbin:/sbin

readonly SLIPWAY=${SLIPWAY:-${CARGO_TARGET_DIR:-target}/debug/slipway}
# Longer than any step takes on a slow machine, and short enough for a person to wait.
readonly READY_SECONDS=60
# A worker finishes or gives back its builds before it ends.
readonly STOP_SECONDS=20

# The fewest privileges: where control groups are restricted, crun does not start and higher limits
# are refused. Directories of our own keep the user's containers and images out of this.
readonly PODMAN=(podman --root "$STATE/podman/root" --runroot "$STATE/podman/run"
  --tmpdir "$STATE/podman/tmp" --events-backend=none
  --runtime runc --cgroup-manager=cgroupfs --storage-driver=overlay)
readonly RUN_OPTIONS=(--detach --pull=never --network=host
  --ulimit nofile=1024:1024 --ulimit nproc=1024:1024)

registry_pid=
slipway_pid=

say() { printf '%s: %s\n' "$NAME" "$*"; }
die() { say "$*" >&2; exit 1; }

# --- what is started is stopped ----------------------------------------------------------------

# stop PID: ends a child of this script and waits for it. If that takes too long it is killed,
# together with its own children, which it could no longer end itself.
stop() {
  local pid=$1 deadline=$((SECONDS + STOP_SECONDS)) children=
  kill -TERM "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      children=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true)
      # shellcheck disable=SC2086 # one word for each child
      kill -KILL "$pid" $children 2>/dev/null || true
      break
    fi
    sleep 0.1
  done
  wait "$pid" 2>/dev/null || true
}

remove_containers() {
  [ -d "$STATE/podman" ] || return 0
  "${PODMAN[@]}" rm --all --force --time 0 --volumes >/dev/null 2>&1 || true
  "${PODMAN[@]}" rmi --all --force >/dev/null 2>&1 || true
  # podman mounts this directory on itself and does not unmount it.
  umount "$STATE/podman/root/overlay" 2>/dev/null || true
  if [ "$(id -u)" -ne 0 ]; then
    # Files of a rootless container belong to mapped users. A process that podman leaves for its
    # next call holds the mapping.
    "${PODMAN[@]}" unshare rm -rf "$STATE/podman/root" "$STATE/podman/run" 2>/dev/null || true
    kill "$(cat "$STATE/podman/tmp/pause.pid")" 2>/dev/null || true
  fi
  rm -rf "$STATE/podman"
}

clean_up() {
  local code=$?
  # A second Ctrl-C must not leave half of it running.
  trap '' INT TERM HUP
  trap - EXIT
  remove_containers
  [ -z "$slipway_pid" ] || stop "$slipway_pid"
  [ -z "$registry_pid" ] || stop "$registry_pid"
  exit "$code"
}

# --- small things --------------------------------------------------------------------------------

# Sets free_port to a port that nothing on this machine listens on, below those the kernel assigns.
find_free_port() {
  while :; do
    free_port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$free_port") 2>/dev/null || return 0
  done
}

# await SECONDS PID COMMAND...: repeats the command until it succeeds; fails when time is up or the
# process has ended.
await() {
  local deadline=$((SECONDS + $1)) pid=$2
  shift 2
  until "$@"; do
    if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$pid" 2>/dev/null; then return 1; fi
    sleep 0.1
  done
}

# --- what is started -----------------------------------------------------------------------------

start_registry() {
  local tries
  for tries in 1 2 3; do
    find_free_port
    registry=127.0.0.1:$free_port
    cat >"$STATE/registry.yml" <<YAML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: "$STATE/registry"}}
http: {addr: "$registry"}
YAML
    docker-registry serve "$STATE/registry.yml" >"$STATE/registry.log" 2>&1 9>&- &
    registry_pid=$!
    if await "$READY_SECONDS" "$registry_pid" registry_answers; then
      say "registry at $registry"
      return
    fi
    stop "$registry_pid"
    registry_pid=
    say "the registry did not start (try $tries)" >&2
    cat "$STATE/registry.log" >&2
  done
  die "no registry"
}

registry_answers() { curl --silent --fail --noproxy '*' --max-time 2 --output /dev/null "http://$registry/v2/"; }

start_slipway() {
  find_free_port
  server=http://127.0.0.1:$free_port
  : >"$STATE/dev.log"
  "$SLIPWAY" dev --data-dir "$STATE/dev" --listen "127.0.0.1:$free_port" \
    --mirror "docker.io=$registry/docker.io" --mirror "gcr.io=$registry/gcr.io" \
    >"$STATE/dev.log" 2>&1 9>&- &
  slipway_pid=$!
  await "$READY_SECONDS" "$slipway_pid" grep -q '^slipway dev: ready' "$STATE/dev.log" || {
    cat "$STATE/dev.log" >&2
    die "slipway dev did not become ready"
  }
  say "dispatcher at $server"
}

# run CONTAINER IMAGE PODMAN_OPTION...: starts an image of the registry.
run() {
  local container=$1 image=$2
  shift 2
  "${PODMAN[@]}" pull --quiet --tls-verify=false "$image" >/dev/null &&
    "${PODMAN[@]}" run "${RUN_OPTIONS[@]}" --name "$container" "$@" "$image" >/dev/null
}

runs() { [ "$("${PODMAN[@]}" inspect --format '{{.State.Running}}' "$1" 2>/dev/null)" = true ]; }

# Checks what is needed, and sees to it that all ends with the script. One script at a time uses a
# STATE.
begin() {
  local command
  for command in docker-registry nats-server podman runc skopeo curl jq; do
    command -v "$command" >/dev/null || die "$command is missing; run: make setup"
  done
  [ -x "$SLIPWAY" ] || die "$SLIPWAY is missing; run: cargo build --package slipway"
  mkdir -p "$STATE/registry"
  exec 9>"$STATE/lock"
  flock --nonblock 9 || die "another run uses $STATE"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  # The remains of a killed run.
  remove_containers
}
