# Configuration files of containerd, the pod network and the kubelet. Sourced by entrypoint.sh, in /etc/kubernetes.
# shellcheck shell=bash

# ptp and not bridge: every packet between pods passes the host's routing, where kube-proxy's rules see it.
write_pod_network() {
  cat > /etc/cni/net.d/10-ptp.conflist <<'JSON'
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": true, "ipam": {"type": "host-local",
    "ranges": [[{"subnet": "10.244.0.0/22"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
JSON
}

# restrict_oom_score_adj: the container has no CAP_SYS_RESOURCE, so pods cannot be protected from the OOM killer.
write_containerd_config() { # registry, user, password
  cat > /etc/containerd/config.toml <<TOML
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "localhost/pause:3"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".registry.mirrors."$1"]
    endpoint = ["http://$1"]
TOML
  [ -z "$2" ] || cat >> /etc/containerd/config.toml <<TOML
  [plugins."io.containerd.grpc.v1.cri".registry.configs."$1".auth]
    username = "$2"
    password = "$3"
TOML
  chmod 600 /etc/containerd/config.toml
}

# Webhook authentication lets the API server's certificate read logs. The limits are those of a loaded test, not of a
# cautious default: 5 pulls and 5 requests a second would make every suite wait.
write_kubelet_config() { # cluster DNS, cgroup root
  cat > kubelet.yaml <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /etc/kubernetes/pki/kubelet.crt
tlsPrivateKeyFile: /etc/kubernetes/pki/kubelet.key
clusterDNS: [$1]
clusterDomain: cluster.local
cgroupDriver: cgroupfs
cgroupRoot: $2
failSwapOn: false
podPidsLimit: ${POD_PIDS_LIMIT:-512}
maxPods: ${MAX_PODS:-500}
containerLogMaxSize: ${LOG_MAX_SIZE:-10Mi}
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
# The disk is the machine's, and may be full of other things: then images would go that nothing can pull again.
imageGCHighThresholdPercent: 100
serializeImagePulls: false
registryPullQPS: 50
registryBurst: 100
kubeAPIQPS: 200
kubeAPIBurst: 400
eventRecordQPS: 100
eventBurst: 200
YAML
}
