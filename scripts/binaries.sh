#!/bin/bash
# Builds the images octopus-process-manager/{api,manager,demo}:local: compiled in a container where the upstream Rust image
# can be had, with this machine's cargo otherwise.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
set -a
# shellcheck source=/dev/null
source "$local_dir/images.env"
set +a

mkdir -p "$local_dir/log"
if [ "$IMAGES" = upstream ]; then
  file=docker/binaries.Dockerfile
  say "compiling in a container, 5-15 minutes the first time"
else
  file=docker/local.Dockerfile
  "$root/scripts/tools.sh" build
  say "compiling the binaries, 5-10 minutes the first time"
  SQLX_OFFLINE=true cargo build --release --locked --bin octopus-api --bin octopus-manager --bin octopus-demo
  mkdir -p "$local_dir/image"
  target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
  cp "$target"/release/octopus-{api,manager,demo} "$local_dir/bin/uv" "$local_dir/image/"
fi

for name in api manager demo; do
  say "image $name"
  log=$local_dir/log/image-$name.log
  docker build -f "$file" --target "$name" -t "octopus-process-manager/$name:local" \
    --build-arg DEBIAN_IMAGE="$DEBIAN_IMAGE" --build-arg RUST_IMAGE="${RUST_IMAGE:-unused}" \
    --build-arg PYTHON_IMAGE="${PYTHON_IMAGE_311:-unused}" . > "$log" 2>&1 ||
    { tail -n 40 "$log" >&2; fail "building the image $name: the whole log is $log"; }
done
