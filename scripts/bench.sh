#!/bin/bash
# Measures this machine: latency of the queue, rate of creation, latency of logs. Arguments go to the benchmark (its main.rs).
set -euo pipefail
source "$(dirname "$0")/lib.sh"
source "$root/scripts/test_environment.sh"

trap '"$root/scripts/clean.sh" tests' EXIT
"$root/scripts/clean.sh" tests
say "compiling for speed, 5-10 minutes the first time"
# Logs are read from their beginning: a node would rotate longer ones.
export LOG_MAX_SIZE=100Mi
cargo build --quiet --locked --release --workspace --bins
cargo run --quiet --locked --release -p octopus-tests --bin octopus-bench -- "$@"
