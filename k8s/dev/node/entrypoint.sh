#!/bin/bash
# Starts a one-node cluster and keeps its components running. The admin's kubeconfig is written last: when the file
# KUBECONFIG_OUTPUT exists, the cluster is ready.
#
#   REGISTRY            host:port that images are pulled from over plain HTTP (registry:5000)
#   REGISTRY_USER, REGISTRY_PASSWORD   what the node shows that registry, so that no pod needs a pull secret
#   KUBECONFIG_OUTPUT   the admin's kubeconfig (/etc/kubernetes/admin.kubeconfig)
#   LOG_MAX_SIZE, MAX_PODS, POD_PIDS_LIMIT   settings of the kubelet
#   INOTIFY_INSTANCES   each followed log takes one; many users' nodes have only 128
#
# Faults on purpose: a component that ends starts again, unless /run/stop/NAME exists. Touch it, kill the component, and
# the API server (kubelet, etcd, ...) is gone until the file is removed. Each writes /var/log/kubernetes/NAME.log.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
source "$here/cgroups.sh"
source "$here/certificates.sh"
source "$here/configuration.sh"

mount -o remount,rw /proc/sys # kubelet, kube-proxy and the pod network set kernel parameters
sysctl -qw "fs.inotify.max_user_instances=${INOTIFY_INSTANCES:-8192}"
mkdir -p /run/stop /run/dns /etc/kubernetes/pki /var/log/kubernetes /etc/cni/net.d /etc/containerd
cd /etc/kubernetes
node=$(hostname)
address=$(hostname -i | awk '{print $1}')
output=${KUBECONFIG_OUTPUT:-/etc/kubernetes/admin.kubeconfig}
cgroup_root=$(own_cgroup_root)
# What a start before this one left behind: a volume outlives its container.
rm -f "$output" /run/containerd/containerd.sock /run/stop/*

stop() {
  trap - TERM INT
  sleep 1           # tini has told every component to end; etcd writes what it has
  # Pods too: a cgroup with a process in it cannot be removed. Never where this is not a process space of its own.
  [ "$(cat /proc/1/comm)" != tini ] || kill -KILL -1 2>/dev/null || true
  sleep 0.2
  remove_cgroup_root "$cgroup_root"
  exit 0
}
trap stop TERM INT

component() { # name, command...
  local name=$1
  shift
  while :; do
    until [ ! -e "/run/stop/$name" ]; do sleep 0.2; done
    "$@" >> "/var/log/kubernetes/$name.log" 2>&1 || true
    sleep 0.5
  done &
}

local_kubectl() { kubectl --kubeconfig local.kubeconfig "$@" 2>/dev/null; }

remove_abandoned_cgroups
make_cgroup_root "$cgroup_root"
make_certificates
write_kubeconfig admin https://127.0.0.1:6443 local.kubeconfig
write_kubeconfig kubelet https://127.0.0.1:6443 kubelet.kubeconfig
write_pod_network
write_containerd_config "${REGISTRY:-registry:5000}" "${REGISTRY_USER:-}" "${REGISTRY_PASSWORD:-}"
write_kubelet_config "$address" "$cgroup_root"

# No fsync: the data of this cluster need not outlive the machine.
component etcd etcd --data-dir /var/lib/etcd --unsafe-no-fsync \
  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380
component containerd containerd
component kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
  --secure-port=6443 --advertise-address="$address" --service-cluster-ip-range=10.96.0.0/16 --allow-privileged \
  --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key --client-ca-file=pki/ca.crt \
  --service-account-issuer=https://kubernetes.default.svc \
  --service-account-key-file=pki/service-account.key --service-account-signing-key-file=pki/service-account.key \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
  --kubelet-client-certificate=pki/admin.crt --kubelet-client-key=pki/admin.key \
  --kubelet-certificate-authority=pki/ca.crt
until local_kubectl get --raw /readyz > /dev/null; do sleep 0.3; done

component kube-controller-manager kube-controller-manager --kubeconfig=local.kubeconfig --leader-elect=false --port=0 \
  --service-account-private-key-file=pki/service-account.key --root-ca-file=pki/ca.crt \
  --use-service-account-credentials --kube-api-qps=200 --kube-api-burst=400
component kube-scheduler kube-scheduler --kubeconfig=local.kubeconfig --leader-elect=false --port=0 \
  --kube-api-qps=200 --kube-api-burst=400
# Until kube-proxy knows of a Service its address means nothing here, and whoever is asked beyond this node may answer.
iptables -w -A FORWARD -d 10.96.0.0/16 -j REJECT
# The conntrack limits are the machine's, not this container's to set.
component kube-proxy kube-proxy --kubeconfig=local.kubeconfig --hostname-override="$node" --proxy-mode=iptables \
  --cluster-cidr=10.244.0.0/16 --conntrack-max-per-core=0 --conntrack-min=0 \
  --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
component dns "$here/dns.sh" "$address"
until ctr -n k8s.io images import --base-name localhost/pause /usr/local/lib/pause.tar > /dev/null 2>&1; do
  sleep 0.3
done
component kubelet kubelet --config=kubelet.yaml --kubeconfig=kubelet.kubeconfig --node-ip="$address" \
  --container-runtime=remote --container-runtime-endpoint=unix:///run/containerd/containerd.sock
until local_kubectl get node "$node" | grep -qw Ready; do sleep 0.3; done

write_kubeconfig admin "https://$node:6443" "$output"
echo "cluster ready"
while :; do wait || true; done
