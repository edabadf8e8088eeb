#!/bin/bash
# Installs what a target needs and the machine lacks. Everything but Debian packages goes into .local/, and
# compiled tools into a folder that all checkouts share (kept_dir in lib.sh).
#
#   tools.sh demo    what starts the stack
#   tools.sh build   the compiler's presence, and uv
#   tools.sh sqlx    the migration tool, compiled once
#   tools.sh deny    the dependency checker, compiled once
#   tools.sh schemathesis   what asks the API by its OpenAPI document
set -euo pipefail
source "$(dirname "$0")/lib.sh"

log=$local_dir/log
mkdir -p "$log"

debian_packages() { # packages...
  local missing=() package
  for package in "$@"; do
    dpkg -s "$package" > /dev/null 2>&1 || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || fail "please install as root: apt-get install ${missing[*]}"
  say "installing ${missing[*]}"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
    > "$log/apt.log" 2>&1 || fail "apt-get: see $log/apt.log"
}

has_compose() { docker compose version > /dev/null 2>&1 || have docker-compose; }

demo_tools() {
  have docker || fail "Docker is missing: https://docs.docker.com/engine/install, or on Debian: apt-get install docker.io"
  if have apt-get; then
    has_compose || debian_packages docker-compose
    have curl || debian_packages curl
    # Only for stand-ins, but whether they are needed is not known yet, and it is small.
    have mmdebstrap || debian_packages mmdebstrap
  fi
  has_compose || fail "Docker Compose is missing: https://docs.docker.com/compose/install"
  have curl || fail "curl is missing"
}

need_cargo() {
  have cargo && return
  cat >&2 << 'TEXT'
cargo, Rust's build tool, is missing. To get it, with the toolchain that rust-toolchain.toml names:

    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
    . "$HOME/.cargo/env"

`make demo` does without it where images can be pulled: the binaries are then compiled in a container.
TEXT
  exit 1
}

# A binary in a wheel, pinned. pip may be missing (Debian's minimal Python): then a virtual environment, then an answer.
install_uv() {
  local version folder=$local_dir/uv
  version=$(cat scripts/uv.version)
  [ "$("$local_dir/bin/uv" --version 2> /dev/null | cut -d' ' -f2)" = "$version" ] && return
  say "installing uv $version"
  have python3 || debian_packages python3 python3-pip
  python3 -m pip --version > /dev/null 2>&1 || debian_packages python3-pip
  rm -rf "$folder"
  [ ! -s "$local_dir/ca/bundle.crt" ] || export PIP_CERT=$local_dir/ca/bundle.crt
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" "uv==$version" ||
    fail "pip could not install uv $version"
  mkdir -p "$local_dir/bin"
  cp "$folder/bin/uv" "$local_dir/bin/uv.new"
  mv "$local_dir/bin/uv.new" "$local_dir/bin/uv"
  rm -rf "$folder"
}

# A program of PyPI with all that it needs, pinned. Renewed when a pin changes; a checkout that moves takes it along.
python_tool() { # name, package
  local folder=$local_dir/$1 pins=scripts/$1.txt
  cmp -s "$pins" "$folder/pins.txt" && return
  install_uv
  say "installing $(grep "^$2==" "$pins")"
  [ ! -s "$local_dir/ca/bundle.crt" ] || export SSL_CERT_FILE=$local_dir/ca/bundle.crt
  rm -rf "$folder"
  { "$local_dir/bin/uv" venv --quiet --relocatable "$folder" &&
    "$local_dir/bin/uv" pip install --quiet --python "$folder/bin/python" --only-binary :all: -r "$pins"; } ||
    fail "uv could not install what $pins names"
  cp "$pins" "$folder/pins.txt"
}

# The build folder is kept until the tool is there: an interrupted run goes on where it was.
cargo_tool() { # crate, version, binary, minutes, cargo's arguments...
  local crate=$1 version=$2 binary=$kept_dir/tools/bin/$3 minutes=$4 build=$kept_dir/build/$1
  shift 4
  [ -x "$binary" ] && grep -q "\"$crate $version " "$kept_dir/tools/.crates.toml" && return
  need_cargo
  say "compiling $crate $version, about $minutes minutes, once"
  CARGO_TARGET_DIR=$build cargo install --quiet --locked --root "$kept_dir/tools" "$crate" --version "$version" "$@"
  rm -rf "$build"
}

"$root/scripts/ca.sh"
for group in "$@"; do
  case $group in
    demo) demo_tools ;;
    build) need_cargo && install_uv ;;
    sqlx) cargo_tool sqlx-cli 0.9.0 sqlx 3 --no-default-features --features postgres,rustls ;;
    schemathesis) python_tool schemathesis schemathesis ;;
    nca) python_tool nca network-config-analyzer ;;
    deny) cargo_tool cargo-deny 0.20.2 cargo-deny 5 ;;
    *) fail "unknown group: $group" ;;
  esac
done
