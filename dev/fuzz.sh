#!/usr/bin/env bash
#
# Runs each fuzz target, or those that are named, for some seconds, one after the other.
#
#   dev/fuzz.sh SECONDS [TARGET...]
#
# The corpus grows in tests/fuzz/corpus, which is not committed. What a target finds lies in
# tests/fuzz/artifacts/TARGET; `target/fuzz/TARGET FILE` repeats it.

set -euo pipefail
cd "$(dirname "$0")/.."

readonly FUZZ=tests/fuzz
seconds=${1:?usage: dev/fuzz.sh SECONDS [TARGET...]}
shift

if ! command -v cargo-fuzz >/dev/null; then
  cargo install --locked cargo-fuzz
fi

# Without a sanitizer, which alone would need a nightly toolchain: Slipway has no unsafe code for it
# to watch, and what libFuzzer needs besides are options of a stable compiler.
cargo fuzz build --fuzz-dir $FUZZ --sanitizer none
host=$(rustc -vV | sed -n 's/^host: //p')
built=${CARGO_TARGET_DIR:-$FUZZ/target}/$host/release

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  mapfile -t targets < <(cargo fuzz list --fuzz-dir $FUZZ)
fi

failed=()
for target in "${targets[@]}"; do
  corpus=$FUZZ/corpus/$target
  found=$FUZZ/artifacts/$target
  mkdir -p "$corpus" "$found" "$FUZZ/seeds/$target"
  # A target of a binary format writes its first inputs itself.
  SLIPWAY_FUZZ_SEEDS=$corpus "$built/$target" -runs=0 2>/dev/null
  options=(-max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=1024
    -print_final_stats=1 -artifact_prefix="$found/")
  dictionary=$FUZZ/dictionaries/$target.dict
  [ ! -e "$dictionary" ] || options+=(-dict="$dictionary")
  log=$FUZZ/artifacts/$target.log
  if "$built/$target" "${options[@]}" "$corpus" "$FUZZ/seeds/$target" >"$log" 2>&1; then
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
    echo "fuzz: $target: $executions executions, $coverage edges, no finding"
  else
    tail -n 40 "$log"
    echo "fuzz: $target: FOUND SOMETHING, see $log"
    failed+=("$target")
  fi
done

if [ ${#failed[@]} -gt 0 ]; then
  echo "fuzz: failed: ${failed[*]}"
  exit 1
fi
echo "fuzz: ${#targets[@]} targets ran $seconds s each without a finding"
