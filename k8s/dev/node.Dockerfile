# A one-node Kubernetes cluster in one container: control plane, kubelet, containerd and DNS.
# For machines that cannot pull the k3s image. KUBERNETES_IMAGE is built from kubernetes.Dockerfile.
ARG DEBIAN_IMAGE=debian:bookworm-slim
ARG NEWER_DEBIAN_IMAGE=debian:trixie-slim
ARG KUBERNETES_IMAGE=octopus-dev/kubernetes:1.20
FROM ${KUBERNETES_IMAGE} AS kubernetes

# Every pod has a "pause" container that holds its network namespace. Upstream's cannot be pulled: this is one, as an OCI
# archive that containerd imports.
FROM ${DEBIAN_IMAGE} AS pause
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev umoci
COPY node/pause.c /pause.c
RUN gcc -Os -static -s -o /pause /pause.c \
 && umoci init --layout /oci && umoci new --image /oci:3 && umoci insert --image /oci:3 /pause /pause \
 && umoci config --image /oci:3 --config.entrypoint /pause && tar cf /pause.tar -C /oci .

# Debian 12's containerd (1.6.20) closes a container's output before it has read all of it when the container ends soon
# after printing ("Failed to pipe stdout: file already closed"): up to 61% of its lines were lost, in 4 of 12
# containers that print 1,000 lines and exit. 1.7.24 from Debian 13 lost none.
FROM ${NEWER_DEBIAN_IMAGE} AS containerd
WORKDIR /package
RUN apt-get update && apt-get download containerd && dpkg -x containerd_*.deb /package/root

FROM ${DEBIAN_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends \
      etcd-server containerd runc containernetworking-plugins kubernetes-client \
      iptables ipset iproute2 conntrack dnsmasq-base procps kmod mount util-linux openssl tini \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
COPY --from=containerd /package/root/usr/bin/ /usr/bin/
COPY --from=kubernetes /out/ /usr/local/bin/
COPY --from=pause /pause.tar /usr/local/lib/pause.tar
COPY node/*.sh /usr/local/lib/node/
VOLUME /var/lib/containerd /var/lib/kubelet /run
# -g: a stop reaches every component, not only the script.
ENTRYPOINT ["/usr/bin/tini", "-g", "--", "/usr/local/lib/node/entrypoint.sh"]
