# Certificates and kubeconfigs. Sourced by entrypoint.sh, in /etc/kubernetes, with $node and $address set.
# shellcheck shell=bash disable=SC2154

make_authority() {
  [ -f pki/ca.key ] && return
  openssl genrsa -out pki/ca.key 2048 2>/dev/null
  openssl genrsa -out pki/service-account.key 2048 2>/dev/null
  openssl req -x509 -new -key pki/ca.key -subj /CN=kubernetes-ca -days 3650 -out pki/ca.crt
}

issue() { # name, subject, extensions
  [ -f "pki/$1.key" ] || openssl genrsa -out "pki/$1.key" 2048 2>/dev/null
  openssl req -new -key "pki/$1.key" -subj "$2" |
    openssl x509 -req -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 3650 \
      -out "pki/$1.crt" -extfile <(echo "$3") 2>/dev/null
}

# Issued anew at each start: the address of the container may have changed.
make_certificates() {
  make_authority
  issue apiserver /CN=kube-apiserver "subjectAltName=DNS:localhost,DNS:cluster,DNS:$node,DNS:kubernetes,\
DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:$address"
  issue admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth
  issue kubelet "/O=system:nodes/CN=system:node:$node" "extendedKeyUsage=clientAuth,serverAuth
subjectAltName=DNS:$node,IP:$address"
}

write_kubeconfig() { # user, server, file
  cat > "$3.new" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: dev
  cluster:
    server: $2
    certificate-authority-data: $(base64 -w0 pki/ca.crt)
users:
- name: $1
  user:
    client-certificate-data: $(base64 -w0 "pki/$1.crt")
    client-key-data: $(base64 -w0 "pki/$1.key")
contexts:
- name: dev
  context: {cluster: dev, user: $1}
current-context: dev
YAML
  mv "$3.new" "$3" # whoever waits for the file never reads half of it
}
