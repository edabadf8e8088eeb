# Sourced by every script: the project's folder, and words for the user.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit
local_dir=$root/.local
mkdir -p "$local_dir"
# What takes minutes to compile and is the same for every checkout; make clean-all removes it.
# shellcheck disable=SC2034 # read by those that source this file
kept_dir=${OCTOPUS_KEPT_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/octopus-process-manager}

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

have() { command -v "$1" > /dev/null 2>&1; }

# Replaces a file in one step, so that an interrupted run leaves the old one or the new one.
replace() { # file, mode; content from stdin
  local new
  new=$(mktemp "$1.XXXXXX")
  cat > "$new"
  chmod "$2" "$new"
  mv "$new" "$1"
}

image_exists() { docker image inspect "$1" > /dev/null 2>&1; }

# Without the buildx plug-in the classic builder works as well, and says at each build that it is old.
docker buildx version > /dev/null 2>&1 || export DOCKER_BUILDKIT=0
