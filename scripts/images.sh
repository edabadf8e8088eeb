#!/bin/bash
# Decides how each image is had, and writes the names to .local/images.env.
#
# The upstream images where they can be pulled. Where they cannot, stand-ins with names of their own (octopus-dev/...)
# are built from Debian packages, once. A name set in the environment on the first run wins over both. Remove
# .local/images.env to decide again.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

chosen=$local_dir/images.env
upstream_debian=debian:bookworm-slim

# A tiny image, so that a slow line is not taken for none.
can_pull() {
  local limit=()
  image_exists "$upstream_debian" && return
  say "looking whether images can be pulled (at most 30 s)"
  ! have timeout || limit=(timeout 30)
  ${limit[@]+"${limit[@]}"} docker pull --quiet hello-world > /dev/null 2>&1 || return
  docker rmi hello-world > /dev/null 2>&1 || true
}

write_upstream() {
  replace "$chosen" 644 << ENV
IMAGES=upstream
DEBIAN_IMAGE=${DEBIAN_IMAGE:-$upstream_debian}
POSTGRES_IMAGE=${POSTGRES_IMAGE:-postgres:17}
REGISTRY_IMAGE=${REGISTRY_IMAGE:-registry:2}
CLUSTER_IMAGE=${CLUSTER_IMAGE:-rancher/k3s:v1.34.1-k3s1}
PYTHON_IMAGE_310=${PYTHON_IMAGE_310:-python:3.10-slim}
PYTHON_IMAGE_311=${PYTHON_IMAGE_311:-python:3.11-slim}
PYTHON_IMAGE_312=${PYTHON_IMAGE_312:-python:3.12-slim}
PYTHON_IMAGE_313=${PYTHON_IMAGE_313:-python:3.13-slim}
RUST_IMAGE=${RUST_IMAGE:-rust:1.95-bookworm}
ENV
}

# The stand-ins that this machine could make. A Python that it does not have stays unnamed.
write_stand_ins() {
  {
    echo "IMAGES=stand-in"
    echo "DEBIAN_IMAGE=${DEBIAN_IMAGE:-octopus-dev/debian:bookworm}"
    echo "POSTGRES_IMAGE=${POSTGRES_IMAGE:-octopus-dev/postgres:17}"
    echo "REGISTRY_IMAGE=${REGISTRY_IMAGE:-octopus-dev/registry:2}"
    echo "CLUSTER_IMAGE=${CLUSTER_IMAGE:-octopus-dev/cluster:1.20}"
    for version in 3.10 3.11 3.12 3.13; do
      image_exists "octopus-dev/python:$version" && echo "PYTHON_IMAGE_${version/./}=octopus-dev/python:$version"
    done
  } | replace "$chosen" 644
}

docker info > /dev/null 2>&1 || fail "no Docker engine answers: install Docker, or start it"
if [ -e "$chosen" ]; then
  kind=$(sed -n 's/^IMAGES=//p' "$chosen")
elif can_pull; then
  kind=upstream
else
  kind=stand-in
fi

if [ "$kind" = upstream ]; then
  [ -e "$chosen" ] || write_upstream
else
  "$root/scripts/stand_ins.sh"
  write_stand_ins
fi
