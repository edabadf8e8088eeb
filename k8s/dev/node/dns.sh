#!/bin/bash
# DNS for pods: the names of services (NAME.NAMESPACE.svc.cluster.local) from a folder of hosts files that follows the API
# server, every other name from the resolver of this container.
set -uo pipefail
names=/run/dns
mkdir -p "$names"
dnsmasq --keep-in-foreground --no-hosts --local=/cluster.local/ --hostsdir="$names" --listen-address="$1" \
  --bind-interfaces --user=root &
while :; do
  kubectl --kubeconfig /etc/kubernetes/local.kubeconfig get services --all-namespaces --watch --no-headers \
    -o custom-columns=N:.metadata.name,S:.metadata.namespace,I:.spec.clusterIP |
    while read -r name namespace address; do
      [[ $address =~ ^[0-9] ]] || continue
      echo "$address $name.$namespace.svc.cluster.local $name.$namespace.svc" > "$names/$namespace.$name"
    done
  sleep 1 # the API server went away
done
