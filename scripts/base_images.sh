#!/bin/bash
# Puts base images into this project's registry, where the manager looks for them: the stand-ins of Python, and any Python
# with the system packages that OCTOPUS_SYSTEM_PACKAGES names. Upstream's own come from their own registry: then there is
# nothing to do.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

setting() { sed -n "s/^$1=//p" "$local_dir/compose.env" | tail -n 1; }

packages=$(setting OCTOPUS_SYSTEM_PACKAGES | tr ',' ' ')
[ -n "$packages" ] || grep -q '^IMAGES=stand-in' "$local_dir/images.env" || exit 0
port=$(setting OCTOPUS_REGISTRY_PORT)
registry=127.0.0.1:${port:-5000}
# A login of its own: the user's stays untouched.
export DOCKER_CONFIG=$local_dir/docker
mkdir -p "$DOCKER_CONFIG"
chmod 700 "$DOCKER_CONFIG"
docker login --username octopus --password-stdin "$registry" < "$local_dir/secrets/registry" > /dev/null 2>&1 ||
  fail "the registry at $registry refuses the password in .local/secrets/registry"

with_packages() { # Python image, name of the result
  local log=$local_dir/log/base-image.log
  say "$1 with $packages"
  DOCKER_BUILDKIT=0 docker build -f docker/base.Dockerfile -t "$2" --build-arg PYTHON_IMAGE="$1" \
    --build-arg PACKAGES="$packages" docker > "$log" 2>&1 ||
    { tail -n 20 "$log" >&2; fail "the packages of OCTOPUS_SYSTEM_PACKAGES were not installed: the whole log is $log"; }
}

sed -n 's/^PYTHON_IMAGE_3\([0-9]*\)=/3.\1 /p' "$local_dir/images.env" | while read -r version image; do
  target=$registry/base/python:$version
  if [ -n "$packages" ]; then
    # Under a name of its own, so that the next run finds it.
    with_packages "$image" "octopus-process-manager/python:$version"
    image=octopus-process-manager/python:$version
  fi
  docker tag "$image" "$target"
  say "pushing $target"
  docker push --quiet "$target" > /dev/null
  docker rmi "$target" > /dev/null # the name only
done
