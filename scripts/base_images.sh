#!/bin/bash
# Puts the stand-ins of the Python base images into this project's registry, where the manager looks for them. Upstream's
# come from their own registry: then there is nothing to do.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

grep -q '^IMAGES=stand-in' "$local_dir/images.env" || exit 0
port=$(sed -n 's/^OCTOPUS_REGISTRY_PORT=//p' "$local_dir/compose.env" | tail -n 1)
registry=127.0.0.1:${port:-5000}
# A login of its own: the user's stays untouched.
export DOCKER_CONFIG=$local_dir/docker
mkdir -p "$DOCKER_CONFIG"
chmod 700 "$DOCKER_CONFIG"
docker login --username octopus --password-stdin "$registry" < "$local_dir/secrets/registry" > /dev/null 2>&1 ||
  fail "the registry at $registry refuses the password in .local/secrets/registry"

sed -n 's/^PYTHON_IMAGE_[0-9]*=//p' "$local_dir/images.env" | while read -r image; do
  target=$registry/base/python:${image##*:}
  say "pushing $target"
  docker tag "$image" "$target"
  docker push --quiet "$target" > /dev/null
  docker rmi "$target" > /dev/null # the name only
done
