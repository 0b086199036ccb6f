#!/usr/bin/env bash
#
# The demonstration, `make demo`: a JAR, a WAR and a static binary go through the queue and become
# images in a registry. Each image is then run and asked over HTTP.
#
# Everything is real and on this machine: a docker-registry, `slipway dev` (nats-server, dispatcher,
# worker) and podman, all of them on free loopback ports. Nothing is left running. The files in
# .slipway/ make the next demonstration faster and may be deleted at any time.

set -euo pipefail
cd "$(dirname "$0")/.."

readonly NAME=demo
readonly STATE=$PWD/.slipway
readonly VERSION=1.0.0
# shellcheck source=dev/surroundings.sh
. dev/surroundings.sh

milliseconds_between() {
  local from to
  from=$(date --date "$1" +%s%N)
  to=$(date --date "$2" +%s%N)
  echo $(((to - from) / 1000000))
}

# build NAME FILE: builds an image through the queue; its record is then in $STATE/demo/NAME.json.
build() {
  say "building $1 from ${2##*/}"
  "$SLIPWAY" --server "$server" --output json build "$2" \
    --image "$registry/demo/$1:$VERSION" --follow >"$STATE/demo/$1.json" || return 1
  [ "$(jq -r .state "$STATE/demo/$1.json" | tr '[:upper:]' '[:lower:]')" = succeeded ]
}

# ask NAME URL EXPECTED: waits for the answer and prints a line about the image.
ask() {
  local name=$1 url=$2 wanted=$3 record=$STATE/demo/$1.json answer deadline=$((SECONDS + READY_SECONDS))
  until answer=$(curl --silent --fail --noproxy '*' --max-time 5 "$url"); do
    if [ "$SECONDS" -ge "$deadline" ] || ! runs "$name"; then
      say "$name did not answer; its output:" >&2
      "${PODMAN[@]}" logs "$name" >&2 || true
      return 1
    fi
    sleep 0.1
  done
  printf '\n%s\n  image     %s\n  size      %s bytes\n  built in  %s ms from submit to finished\n  asked     %s\n  answered  %s\n' \
    "$name" "$(jq -r .image.pull "$record")" "$(jq -r .image.size_bytes "$record")" \
    "$(milliseconds_between "$(jq -r .submitted_at "$record")" "$(jq -r .finished_at "$record")")" \
    "$url" "$answer"
  [ "$answer" = "$wanted" ] || { say "$name should have answered: $wanted" >&2; return 1; }
}

begin
mkdir -p "$STATE/demo"
dev/demo/build.sh "$STATE/demo"
start_registry
dev/base-images.sh "$registry"
start_slipway

names=(hello-jar hello-war hello-binary)
declare -A file=([hello-jar]=hello.jar [hello-war]=hello.war [hello-binary]=hello)
declare -A expected=([hello-jar]='hello from a jar' [hello-war]='hello from a war' [hello-binary]='hello from a binary')
declare -A url=()

# All are started before the first is asked, so that they start in parallel.
for name in "${names[@]}"; do
  build "$name" "$STATE/demo/${file[$name]}" || { say "$name was not built" >&2; continue; }
  find_free_port
  case $name in
    # The stand-in of Tomcat takes its port from this property.
    hello-war) options=(--env "CATALINA_OPTS=-Dport.http=$free_port") path=/hello/ ;;
    *) options=(--env "PORT=$free_port") path=/ ;;
  esac
  run "$name" "$(jq -r .image.pull "$STATE/demo/$name.json")" "${options[@]}" || { say "$name did not start" >&2; continue; }
  url[$name]=http://127.0.0.1:$free_port$path
done

answered=0
for name in "${names[@]}"; do
  [ -n "${url[$name]:-}" ] || continue
  if ask "$name" "${url[$name]}" "${expected[$name]}"; then answered=$((answered + 1)); fi
done

echo
say "$answered of ${#names[@]} images answered"
[ "$answered" -eq ${#names[@]} ]
