#!/bin/bash
# Repeats the end-to-end suite for SOAK_MINUTES (60) and stops at the first failure: races show in numbers.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
source "$root/scripts/test_environment.sh"

trap '"$root/scripts/clean.sh" tests' EXIT
minutes=${SOAK_MINUTES:-60}
# A token of ten minutes is used up to its end, and five minutes beyond: a round takes that long.
export OCTOPUS_SOAK=1
cargo build --quiet --locked --workspace --bins
for ((round = 1; SECONDS < minutes * 60; round++)); do
  say "round $round, minute $((SECONDS / 60)) of $minutes"
  "$root/scripts/clean.sh" tests
  cargo test --locked -p octopus-tests --test e2e
done
say "$((round - 1)) rounds without a failure"
