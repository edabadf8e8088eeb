#!/bin/bash
# Every test of the workspace. The tests start their own containers, from the images that .local/images.env names; a
# Postgres or a cluster that is there already is used through DATABASE_URL and KUBECONFIG. Arguments go to cargo test.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
source "$root/scripts/test_environment.sh"

trap '"$root/scripts/clean.sh" tests' EXIT
"$root/scripts/clean.sh" tests
# The same cases every time: a failure is of the change that was made. `make soak` looks for new ones.
export PROPTEST_RNG_SEED=1
# A test of the whole waits for a node half of its time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) * 3 / 2))}
say "compiling the binaries and the tests, 5-10 minutes the first time"
# The end-to-end tests run the programs, not the crates. Failpoints let the manager die where a test wants it to.
cargo build --quiet --locked --workspace --bins --features octopus-manager/failpoints
cargo test --locked --workspace --features octopus-manager/failpoints "$@"
