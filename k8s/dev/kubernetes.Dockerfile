# Kubernetes 1.20.2 for Linux, built from Debian 12's source package `kubernetes`. Takes 4-10 minutes on two cores.
# The binaries end up in /out. Used only where the upstream k3s image cannot be pulled.
ARG DEBIAN_IMAGE=debian:bookworm-slim
FROM ${DEBIAN_IMAGE}
RUN printf 'deb-src http://deb.debian.org/debian bookworm main\n' > /etc/apt/sources.list.d/source.list \
 && apt-get update && apt-get install -y --no-install-recommends golang-1.19-go dpkg-dev && apt-get clean
WORKDIR /src
RUN apt-get source kubernetes && mkdir -p /go/src/k8s.io && mv kubernetes-*/ /go/src/k8s.io/kubernetes
# The package is a GOPATH tree: module mode does not build it.
ENV GOPATH=/go GO111MODULE=off CGO_ENABLED=0 PATH=/usr/lib/go-1.19/bin:/usr/bin:/bin
WORKDIR /go/src/k8s.io/kubernetes
# The tarball lacks the generated OpenAPI models, without which kube-apiserver refuses to start.
# vendor/k8s.io holds symbolic links to the packages, hence grep -R and not -r.
RUN go build -o /tmp/openapi-gen ./vendor/k8s.io/kube-openapi/cmd/openapi-gen && touch /tmp/header \
 && packages=$(grep -Rl '+k8s:openapi-gen=' --include='*.go' cmd pkg plugin vendor/k8s.io \
      | grep -vE '_test\.go|/testdata/|sample-|code-generator|gengo|vendor/k8s.io/kube-openapi' \
      | xargs -n1 dirname | sort -u | sed 's#^#k8s.io/kubernetes/#' | paste -sd,) \
 && /tmp/openapi-gen -O zz_generated.openapi -p k8s.io/kubernetes/pkg/generated/openapi -i "$packages" \
      --report-filename /tmp/report -h /tmp/header --output-base /go/src
# Two packages carry the version: component-base (`--version`) and client-go (what /version answers).
RUN vendor=k8s.io/kubernetes/vendor/k8s.io flags="-s -w" \
 && for package in component-base/version client-go/pkg/version; do \
      flags="$flags -X $vendor/$package.gitVersion=v1.20.2 -X $vendor/$package.gitMajor=1"; \
      flags="$flags -X $vendor/$package.gitMinor=20 -X $vendor/$package.gitTreeState=clean"; done \
 && for binary in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet; do \
      go build -trimpath -ldflags "$flags" -o /out/$binary ./cmd/$binary || exit 1; \
    done
