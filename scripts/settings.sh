#!/bin/bash
# Writes what docker-compose.yml reads: passwords, made up at random on the first run and then kept, and image names.
#
# .local/compose.env is written anew each time; `.env` points to it, so that a plain `docker-compose up` works. Settings of
# your own (OCTOPUS_KUBECONFIG_DIR, OCTOPUS_REGISTRY_PULL, ports, ...) go into octopus.env, which is read last and wins.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

secrets=$local_dir/secrets
# Only the owner may enter. The files in it are readable for all: a bind mount shows a container the file alone, and the
# programs in there do not run as this user.
mkdir -p "$secrets" "$local_dir/cluster"
chmod 700 "$secrets" "$local_dir/cluster"

password() { # name
  [ -s "$secrets/$1" ] || od -An -N20 -tx1 /dev/urandom | tr -d ' \n' | replace "$secrets/$1" 644
  cat "$secrets/$1"
}

image() { sed -n "s/^$1=//p" "$local_dir/images.env"; }

# bcrypt is the only hash that the registry takes. Debian's perl can make it; no host needs a tool for it.
write_registry_users() { # password
  [ -s "$secrets/htpasswd" ] && return
  local salt
  salt=$(od -An -N11 -tx1 /dev/urandom | tr -d ' \n')
  # shellcheck disable=SC2016 # perl's variables
  printf '%s' "$1" | docker run --rm -i --network none "$(image DEBIAN_IMAGE)" \
    perl -e 'local $/; printf "octopus:%s\n", crypt(<STDIN>, "\$2y\$10\$" . $ARGV[0])' "$salt" |
    replace "$secrets/htpasswd" 644
}

# How k3s reaches the registry: plain http, with the password, so that no pod needs a pull secret.
write_k3s_registries() { # password
  replace "$local_dir/cluster/registries.yaml" 644 << YAML
mirrors:
  "registry:5000":
    endpoint: ["http://registry:5000"]
configs:
  "registry:5000":
    auth: {username: octopus, password: $1}
YAML
}

# Where the manager finds Python: the registry of this project holds the stand-ins, and those with system packages
# (base_images.sh); upstream's own come from their own.
base_images() {
  local version
  for version in 310 311 312 313; do
    [ -n "$(image "PYTHON_IMAGE_$version")" ] || continue
    if [ "$(image IMAGES)" = stand-in ] || grep -qs '^OCTOPUS_SYSTEM_PACKAGES=.' octopus.env; then
      echo "cp$version=http://registry:5000/base/python:3.${version#3}"
    else
      echo "cp$version=docker.io/library/$(image "PYTHON_IMAGE_$version")"
    fi
  done | paste -sd, -
}

[ -e "$local_dir/images.env" ] || "$root/scripts/images.sh"
"$root/scripts/ca.sh"
registry_password=$(password registry)
write_registry_users "$registry_password"
write_k3s_registries "$registry_password"

{
  cat << ENV
COMPOSE_PROJECT_NAME=octopus-process-manager
OCTOPUS_POSTGRES_PASSWORD=$(password postgres)
OCTOPUS_API_PASSWORD=$(password api)
OCTOPUS_MANAGER_PASSWORD=$(password manager)
OCTOPUS_REGISTRY_PASSWORD=$registry_password
OCTOPUS_BASE_IMAGES=$(base_images)
ENV
  # An empty bundle means: the authorities of the image.
  [ ! -s "$local_dir/ca/bundle.crt" ] || echo "OCTOPUS_CONTAINER_CA_BUNDLE=/etc/octopus/ca/bundle.crt"
  if [ "$(image IMAGES)" = stand-in ]; then
    files=docker-compose.yml:k8s/dev/compose.yml
    # Compose reads the override by itself only as long as no files are named.
    [ ! -e docker-compose.override.yml ] || files=$files:docker-compose.override.yml
    echo "COMPOSE_FILE=$files"
    echo "OCTOPUS_DOCKERFILE=docker/local.Dockerfile"
  fi
  grep -v '^IMAGES=' "$local_dir/images.env"
  [ ! -e octopus.env ] || cat octopus.env
} | replace "$local_dir/compose.env" 600

if [ ! -e .env ] || [ -L .env ]; then
  ln -sfn .local/compose.env .env
fi
