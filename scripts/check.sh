#!/bin/bash
# Everything that is checked without running the program. Stops at the first complaint.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
"$root/scripts/tools.sh" demo build sqlx deny
export PATH=$kept_dir/tools/bin:$PATH SQLX_OFFLINE=true

say "scripts"
scripts=$(find scripts k8s docker .ci -name '*.sh' -o -path .ci/run)
for script in $scripts; do
  bash -n "$script"
done
# shellcheck disable=SC2086 # one argument each
! have shellcheck || shellcheck --external-sources --source-path=SCRIPTDIR $scripts

say "format"
cargo fmt --all --check
say "lints"
cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --workspace --no-deps --document-private-items
say "dependencies: who may use what, licences, sources"
cargo deny --log-level error check bans licenses sources
say "queries, against a database with every migration"
SQLX_OFFLINE=false "$root/scripts/with_database.sh" cargo sqlx prepare --workspace --check -- --all-targets
say "all checks passed"
