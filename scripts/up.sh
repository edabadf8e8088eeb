#!/bin/bash
# Starts the whole stack with a development cluster and waits until the manager has everything that it needs.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
compose=$root/scripts/compose.sh

"$root/scripts/tools.sh" demo
"$root/scripts/images.sh"
"$root/scripts/settings.sh"

say "starting Postgres, the registry and the cluster, 20-60 s"
"$compose" --profile cluster up -d postgres registry cluster cluster-setup
"$root/scripts/base_images.sh"
"$root/scripts/binaries.sh"
say "starting the API and the manager"
"$compose" --profile cluster up -d

answers() { curl --silent --fail --max-time 5 --output /dev/null "http://127.0.0.1:$1/readyz"; }

port() { # variable, default
  local value
  value=$(sed -n "s/^$1=//p" "$local_dir/compose.env" | tail -n 1)
  echo "${value:-$2}"
}

wait_for() { # service, port
  local second
  for ((second = 0; second < 120; second++)); do
    answers "$2" && return
    sleep 1
  done
  "$compose" --profile cluster logs --tail=40 "$1" >&2
  fail "the $1 is not ready after 2 minutes; its last lines are above"
}
wait_for api "$(port OCTOPUS_API_PORT 8080)"
wait_for manager "$(port OCTOPUS_MANAGER_PORT 8081)"
"$root/scripts/kubeconfig.sh"
say "up: the API is http://127.0.0.1:$(port OCTOPUS_API_PORT 8080), its documentation at /docs, its state at /readyz"
