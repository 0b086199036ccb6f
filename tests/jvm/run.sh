#!/usr/bin/env bash
#
# Builds small real projects of the common JVM frameworks with Maven, takes what they package
# through the queue, runs the images and asks each over HTTP: `make jvm-test`.
#
#   run.sh [ROW...]     all rows of rows.sh, or the named ones
#
# It ends with one table. A row fails when its image does not answer, or is not for the environment
# that rows.sh expects. All output is kept in .slipway/jvm/rows. The first run takes more than half
# an hour: Maven fetches what the frameworks want. Later ones build only projects that changed.

set -euo pipefail
cd "$(dirname "$0")/../.."

readonly NAME=jvm-test
readonly STATE=$PWD/.slipway/jvm
readonly SOURCES=$PWD/tests/jvm/projects
readonly ROWS=$STATE/rows
# Longer than the slowest framework takes on a machine that does other things as well.
readonly ANSWER_SECONDS=240
# shellcheck source=dev/surroundings.sh
. dev/surroundings.sh

# --- one row: each step goes on, or fails and sets `reason` --------------------------------------

# jdk RELEASE: prints the directory of an installed JDK of that release, or nothing.
jdk() {
  local home
  for home in /usr/lib/jvm/*; do
    [ -x "$home/bin/javac" ] || continue
    case $("$home/bin/javac" -version 2>&1) in
      "javac $1" | "javac $1".*) echo "$home"; return ;;
    esac
  done
}

# package: builds the project in $project, a copy, unless it was built from the same sources before.
package() {
  local stamp home options
  stamp=$({
    echo "${field[java]} ${field[maven]}"
    cd "$SOURCES" && find pom.xml "${field[project]}" -type f -print0 | sort -z | xargs -0 sha256sum
  } | sha256sum)
  [ "$(cat "$project.stamp" 2>/dev/null)" != "$stamp" ] || return 0
  home=$(jdk "${field[java]}")
  [ -n "$home" ] || { reason="no JDK ${field[java]} below /usr/lib/jvm"; return 1; }
  rm -rf "$project"
  mkdir -p "${project%/*}"
  cp "$SOURCES/pom.xml" "${project%/*}"
  cp -R "$SOURCES/${field[project]}" "$project"
  read -ra options <<<"${field[maven]}"
  JAVA_HOME=$home mvn --batch-mode --file "$project/pom.xml" package "${options[@]}" \
    >"$log.maven" 2>&1 || {
    reason="Maven: $(sed -n 's/^\[ERROR\] //p' "$log.maven" | head -n 1)"
    return 1
  }
  [ -e "$project/${field[artifact]}" ] || { reason="Maven made no ${field[artifact]}"; return 1; }
  echo "$stamp" >"$project.stamp"
}

# build: builds the image through the queue; the build is then in $log.json.
build() {
  local options
  read -ra options <<<"${field[build]}"
  "$SLIPWAY" --server "$server" --output json build "$project/${field[artifact]}" \
    --image "$registry/jvm/$row:1" "${options[@]}" >"$log.json" 2>"$log.slipway" || {
    reason=$(jq -r '.failure.message // .detail // empty' "$log.json" 2>/dev/null || true)
    reason=${reason:-$(tail -n 1 "$log.slipway")}
    return 1
  }
  environment=$(jq -r .request.recipe.environment "$log.json")
  size=$(jq -r '.image.size_bytes / 1000000 | floor' "$log.json")
  [ "$environment" = "${field[environment]}" ] || {
    reason="expected the environment ${field[environment]}"
    return 1
  }
}

# note: builds the image, or tries to, and looks for the note in all that Slipway says.
note() {
  field[environment]=
  build || true
  reason=
  cat "$log.json" "$log.slipway" | grep -qF -- "${field[note]}" || {
    reason="built without a word of ${field[note]}"
    return 1
  }
}

# ask: runs the image and waits for its first answer.
ask() {
  local options url started answer deadline=$((SECONDS + ANSWER_SECONDS))
  read -ra options <<<"${field[run]//\{\}/$project}"
  find_free_port
  url=http://127.0.0.1:$free_port${field[path]}
  started=$(date +%s%N)
  # Tomcat takes its port from the property, the others from the variable. As in Kubernetes, nobody
  # adds the user to the image's /etc/passwd.
  run "$row" "$(jq -r .image.pull "$log.json")" --passwd=false --env "PORT=$free_port" \
    --env "CATALINA_OPTS=-Dport.http=$free_port" "${options[@]}" 2>"$log.podman" || {
    reason="podman: $(tail -n 1 "$log.podman")"
    return 1
  }
  until answer=$(curl --silent --fail --noproxy '*' --max-time 5 "$url" 2>/dev/null); do
    if [ "$SECONDS" -ge "$deadline" ] || ! runs "$row"; then break; fi
    sleep 0.05
  done
  milliseconds=$((($(date +%s%N) - started) / 1000000))
  "${PODMAN[@]}" logs "$row" >"$log.output" 2>&1 || true
  "${PODMAN[@]}" rm --force --time 0 "$row" >/dev/null 2>&1 || true
  [ "$answer" = "${field[answer]}" ] && return
  milliseconds=
  if [ -n "$answer" ]; then
    reason="answered: $answer"
  else
    reason="no answer; $(grep -E 'Exception|Error|SEVERE' "$log.output" | head -n 1)"
    [ "$reason" != 'no answer; ' ] || reason="no answer; $(tail -n 1 "$log.output")"
  fi
  return 1
}

# --- all rows ------------------------------------------------------------------------------------

failed=0
waiting=0
wanted=" $* "

# take NAME KEY=VALUE...: takes a row, as described in rows.sh, through all steps.
take() {
  local row=$1 pair log=$ROWS/$1 project reason='' environment='' size='' milliseconds='' outcome=ok
  declare -A field=([project]=$1 [artifact]=target/app.jar [java]=17 [maven]='' [build]=''
    [environment]='' [run]='' [path]=/ [answer]='' [note]='' [waiting]='')
  shift
  [ "$wanted" = '  ' ] || case $wanted in *" $row "*) ;; *) return 0 ;; esac
  for pair in "$@"; do
    [ "${field[${pair%%=*}]+known}" ] || die "$row: there is no key ${pair%%=*}"
    field[${pair%%=*}]=${pair#*=}
  done
  field[answer]=${field[answer]:-hello from ${field[project]}}
  project=$STATE/projects/${field[project]}${field[maven]//[^a-zA-Z0-9]/-}

  say "$row"
  if ! package; then outcome=FAILED
  elif [ -n "${field[waiting]}" ]; then outcome=waiting reason=${field[waiting]}
  elif [ -n "${field[note]}" ]; then
    if note; then outcome=ok reason="says ${field[note]}"; else outcome=FAILED; fi
  elif ! build || ! ask; then outcome=FAILED
  fi
  [ "$outcome" != FAILED ] || failed=$((failed + 1))
  [ "$outcome" != waiting ] || waiting=$((waiting + 1))
  printf '%s\t%s\t%s\t%s\t%s\n' "$row" "${environment:--}" "${size:+$size MB}" \
    "${milliseconds:+$milliseconds ms}" "$outcome${reason:+: ${reason:0:160}}" >>"$ROWS/table"
}

for command in mvn python3; do
  command -v "$command" >/dev/null || die "$command is missing; run: dev/setup.sh --jvm"
done
known=()
row() { known+=("$1"); }
# shellcheck source=tests/jvm/rows.sh
. tests/jvm/rows.sh
for name in "$@"; do
  case " ${known[*]} " in
    *" $name "*) ;;
    *) die "there is no row $name; there are ${known[*]}" ;;
  esac
done
row() { take "$@"; }

begin
rm -rf "$ROWS"
mkdir -p "$ROWS"
printf 'row\tenvironment\timage\tfirst answer\toutcome\n' >"$ROWS/table"
start_registry
dev/base-images.sh "$registry"
dev/base-images.sh "$registry" --jvm
# What an earlier Slipway found out about an artifact would not be looked for again.
rm -rf "${STATE:?}/dev"
start_slipway
# shellcheck source=tests/jvm/rows.sh
. tests/jvm/rows.sh

echo
column --table --separator $'\t' "$ROWS/table"
echo
total=$(($(wc -l <"$ROWS/table") - 1))
say "$((total - failed - waiting)) of $total rows answered, $waiting wait, $failed failed"
[ "$failed" -eq 0 ]
