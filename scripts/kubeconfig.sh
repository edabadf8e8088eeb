#!/bin/bash
# Copies the kubeconfigs of the development cluster to .local/kubeconfig, for use on this machine:
#   KUBECONFIG=.local/kubeconfig/admin.kubeconfig kubectl get pods -n octopus-functions
# The manager's token lives for an hour, and the manager renews its own copy: repeat this for the newest one.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

port=$(sed -n 's/^OCTOPUS_CLUSTER_PORT=//p' "$local_dir/compose.env" | tail -n 1)
setup=$("$root/scripts/compose.sh" --profile cluster ps -aq cluster-setup 2> /dev/null ||
  "$root/scripts/compose.sh" --profile cluster ps -q cluster-setup)
[ -n "$setup" ] || fail "the cluster is not up: make up"
mkdir -p "$local_dir/kubeconfig"
chmod 700 "$local_dir/kubeconfig"
for file in output/admin kubeconfig/manager; do
  docker cp "$setup:/$file.kubeconfig" - | tar -xOf - |
    sed "s|server: .*|server: https://127.0.0.1:${port:-6443}|" |
    replace "$local_dir/kubeconfig/${file#*/}.kubeconfig" 600
done
docker cp "$setup:/kubeconfig/manager.token" - | tar -xOf - | replace "$local_dir/kubeconfig/manager.token" 600
