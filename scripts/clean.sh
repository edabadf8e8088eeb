#!/bin/bash
# Removes what the project has made.
#
#   clean.sh tests   containers, networks and volumes that an interrupted test run left
#   clean.sh         those, and the stack with its data
#   clean.sh all     also images, tools, passwords and build output
set -euo pipefail
source "$(dirname "$0")/lib.sh"
what=${1:-stack}
label=octopus-process-manager=test

# Ids in, one command for all of them; nothing happens without any.
each() { xargs -r "$@" > /dev/null 2>&1 || true; }

remove_tests() {
  docker ps --all --quiet --filter "label=$label" | each docker rm --force --volumes
  # Networks that testcontainers makes carry no label.
  docker network ls --quiet --filter "name=^octopus-test-" | each docker network rm
  docker volume ls --quiet --filter "label=$label" | each docker volume rm
}

if have docker && docker info > /dev/null 2>&1; then
  remove_tests
  [ "$what" != tests ] || exit 0
  # Without settings no stack was ever started.
  [ ! -e "$local_dir/compose.env" ] ||
    "$root/scripts/compose.sh" --profile cluster --profile demo down --volumes --remove-orphans
  if [ "$what" = all ]; then
    for name in 'octopus-dev/*' 'octopus-process-manager/*'; do
      docker images --format '{{.Repository}}:{{.Tag}}' --filter "reference=$name" | each docker rmi
    done
  fi
elif [ "$what" != tests ]; then
  say "no Docker engine answers: containers and images were not looked for"
fi

if [ "$what" = all ]; then
  [ ! -L .env ] || rm .env
  rm -rf "$local_dir" "$kept_dir" target
  say "removed. Images that were pulled from a registry are left in the engine"
fi
