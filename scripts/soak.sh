#!/bin/bash
# Many cases of each property and of each route, the API server stopped under load, then the end-to-end suite again and again
# for SOAK_MINUTES (60). Each round kills managers at pairs of places for OCTOPUS_PAIRS_MINUTES (60). Stops at the first
# failure: races show in numbers.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
source "$root/scripts/test_environment.sh"

trap '"$root/scripts/clean.sh" tests' EXIT
minutes=${SOAK_MINUTES:-60}
# A token of ten minutes is used up to its end, and five minutes beyond: a round takes that long.
export OCTOPUS_SOAK=1
say "properties, ${PROPTEST_CASES:=20000} cases each"
export PROPTEST_CASES
cargo test --locked --workspace --lib
say "the queue beside its model"
cargo test --locked -p octopus-tests --test it queue_
say "every route by its document"
cargo test --locked -p octopus-tests --test it api_fuzz
SECONDS=0
cargo build --quiet --locked --workspace --bins --features octopus-manager/failpoints
say "the API server stopped, with nothing beside"
"$root/scripts/clean.sh" tests
OCTOPUS_STOP_API_SERVER=1 cargo test --locked -p octopus-tests --test e2e the_api_server_itself
for ((round = 1; SECONDS < minutes * 60; round++)); do
  say "round $round, minute $((SECONDS / 60)) of $minutes"
  "$root/scripts/clean.sh" tests
  cargo test --locked -p octopus-tests --test e2e
done
say "$((round - 1)) rounds without a failure"
