#!/bin/bash
# The main job, once and for real. Exit status: that of the demo.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
compose=$root/scripts/compose.sh
started=$SECONDS

"$root/scripts/up.sh"
say "up after $((SECONDS - started)) s; the main job"

# A token of this run, made with the owner's credentials as for every client.
token=$("$compose" run --rm -T migrate octopus-api token create --name "demo-$(date +%Y%m%d-%H%M%S)-$$" \
  --role admin --expires-in 1h 2> "$local_dir/log/token.log" | tr -d '\r' | tail -n 1) ||
  { cat "$local_dir/log/token.log" >&2; fail "no token for the demo"; }

status=0
OCTOPUS_DEMO_TOKEN=$token "$compose" --profile demo run --rm -T demo || status=$?
[ "$status" = 0 ] || "$compose" --profile cluster logs --tail=30 manager api >&2
say "the demo ended with status $status after $((SECONDS - started)) s; the stack is still up (make down, make clean)"
exit "$status"
