#!/bin/sh
# Makes a cluster ready for the manager; runs in a container of the node's image (service cluster-setup). It can be
# repeated: what is there is left, and the token is made anew.
#
#   /output/admin.kubeconfig        the administrator's, written by the cluster
#   /kubernetes                     this project's k8s/
#   /kubeconfig/manager.kubeconfig  the result, and the token that it names beside it
set -eu
export KUBECONFIG=/output/admin.kubeconfig
server=https://cluster:6443 # what the manager calls the cluster; the file above says 127.0.0.1 or the host's name
account=/api/v1/namespaces/octopus-manager/serviceaccounts/octopus-manager

admin() { kubectl --server "$server" "$@"; }

echo "waiting for the cluster"
tries=0
until admin get --raw /readyz > /dev/null 2>&1 && admin get nodes --no-headers 2> /dev/null | grep -qw Ready; do
  tries=$((tries + 1))
  [ "$tries" -lt 300 ] || { echo "the cluster is not ready after 5 minutes" >&2; exit 1; }
  sleep 1
done

for part in namespace rbac quota networkpolicy builds; do
  admin apply -f "/kubernetes/$part.yaml"
done

# What `octopus-manager login` does, in an image that has no such program: a token bound to the account, as TokenRequest
# gives it (`kubectl create token` is younger than Kubernetes 1.20). An hour is enough: the manager renews it and writes it back.
token=$(echo '{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}' |
  admin create --raw "$account/token" -f - | sed -n 's/.*"token": *"\([^"]*\)".*/\1/p')
[ -n "$token" ] || { echo "the cluster gave no token" >&2; exit 1; }
authority=$(kubectl config view --raw -o 'jsonpath={.clusters[0].cluster.certificate-authority-data}')

umask 077
printf %s "$token" > /kubeconfig/manager.token.new
cat > /kubeconfig/manager.kubeconfig.new << YAML
apiVersion: v1
kind: Config
clusters:
- name: cluster
  cluster:
    server: $server
    certificate-authority-data: $authority
users:
- name: octopus-manager
  user:
    tokenFile: manager.token
contexts:
- name: manager
  context: {cluster: cluster, user: octopus-manager, namespace: octopus-functions}
current-context: manager
YAML
# The user of the manager's image, which also replaces the token. The kubeconfig is renamed last: the manager waits for it,
# and must not read half of it.
chown 10001:10001 /kubeconfig /kubeconfig/manager.token.new /kubeconfig/manager.kubeconfig.new
mv /kubeconfig/manager.token.new /kubeconfig/manager.token
mv /kubeconfig/manager.kubeconfig.new /kubeconfig/manager.kubeconfig
echo "the manager's kubeconfig is written"
