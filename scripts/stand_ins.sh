#!/bin/bash
# Builds the stand-ins for images that cannot be pulled, from Debian packages. What exists already is skipped.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

recipes=$root/k8s/dev
debian=octopus-dev/debian:bookworm
log=$local_dir/log
mkdir -p "$log"

# A root file system without documentation and translations, which no container reads.
bootstrap() { # suite
  image_exists "octopus-dev/debian:$1" && return
  have mmdebstrap || fail "mmdebstrap is missing: apt-get install mmdebstrap"
  say "Debian $1, 20-30 s"
  # shellcheck disable=SC2016 # the hook's own $1
  mmdebstrap --quiet --variant=minbase --include=ca-certificates \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin' "$1" "$local_dir/debian.tar"
  docker import -c 'CMD ["/bin/bash"]' "$local_dir/debian.tar" "octopus-dev/debian:$1" > /dev/null
  rm "$local_dir/debian.tar"
}

build() { # image, what it is, docker build's arguments...
  local image=$1 what=$2 file
  shift 2
  image_exists "$image" && return
  say "$what"
  file=$log/$(echo "$image" | tr '/:' '__').log
  # The classic builder works on every engine; a build without a registry has nothing to gain from the other.
  if ! DOCKER_BUILDKIT=0 docker build -t "$image" "$@" > "$file" 2>&1; then
    tail -n 20 "$file" >&2
    fail "building $image: the whole log is $file"
  fi
}

# The newest patch release that pyenv has of a version, without what no program needs.
copy_python() { # version, folder
  local found exclude
  found=$(find "${PYENV_ROOT:-$HOME/.pyenv}/versions" -maxdepth 1 -name "$1.*" 2> /dev/null | sort -V | tail -n 1)
  mkdir -p "$2/python"
  cp "$recipes/python/install.sh" "$2/"
  [ -n "$found" ] || return 0
  exclude=(--exclude=__pycache__ --exclude='*.a' --exclude='config-3*' --exclude=idlelib --exclude=tkinter
    --exclude=turtledemo --exclude="lib/python$1/test" --exclude=tests --exclude="lib/python$1/site-packages/*")
  tar -C "$found" "${exclude[@]}" -cf - bin include lib | tar -C "$2/python" -xf -
}

python_image() { # version
  local context
  image_exists "octopus-dev/python:$1" && return
  context=$(mktemp -d "$local_dir/python.XXXXXX")
  copy_python "$1" "$context"
  # Without a tree of its own only Debian's version can be had.
  if [ -x "$context/python/bin/python$1" ] || [ "$1" = 3.11 ]; then
    build "octopus-dev/python:$1" "Python $1" -f "$recipes/python.Dockerfile" --build-arg DEBIAN_IMAGE="$debian" \
      --build-arg PYTHON_VERSION="$1" "$context"
  fi
  rm -rf "$context"
}

bootstrap bookworm
bootstrap trixie # has PostgreSQL 17
build octopus-dev/postgres:17 "PostgreSQL 17, about 1 minute" -f "$recipes/postgres.Dockerfile" \
  --build-arg DEBIAN_IMAGE=octopus-dev/debian:trixie "$recipes"
build octopus-dev/registry:2 "the registry, about 20 s" -f "$recipes/registry.Dockerfile" \
  --build-arg DEBIAN_IMAGE="$debian" "$recipes"
for version in 3.10 3.11 3.12 3.13; do
  python_image "$version"
done
if ! image_exists octopus-dev/cluster:1.20; then
  build octopus-dev/kubernetes:1.20 "building Kubernetes from source, 4-10 minutes, once" \
    -f "$recipes/kubernetes.Dockerfile" --build-arg DEBIAN_IMAGE="$debian" "$recipes"
  build octopus-dev/cluster:1.20 "the cluster's node, about 1 minute" -f "$recipes/node.Dockerfile" \
    --build-arg DEBIAN_IMAGE="$debian" --build-arg NEWER_DEBIAN_IMAGE=octopus-dev/debian:trixie \
    --build-arg KUBERNETES_IMAGE=octopus-dev/kubernetes:1.20 "$recipes"
fi
