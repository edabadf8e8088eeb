# Sourced, after lib.sh: prepares what tests and benchmarks need and exports how to find it.
# shellcheck shell=bash disable=SC2154

"$root/scripts/tools.sh" demo build schemathesis nca
"$root/scripts/images.sh"
set -a
# shellcheck source=/dev/null
source "$local_dir/images.env"
set +a
export OCTOPUS_UV=$local_dir/bin/uv
export OCTOPUS_SCHEMATHESIS=$local_dir/schemathesis/bin/schemathesis
export OCTOPUS_NCA=$local_dir/nca/bin/nca
[ ! -s "$local_dir/ca/bundle.crt" ] || export OCTOPUS_CA_BUNDLE=$local_dir/ca/bundle.crt
# The queries were checked against a database by `make check`; a build needs none.
export SQLX_OFFLINE=true
