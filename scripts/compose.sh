#!/bin/bash
# docker-compose with this project's settings, whichever Compose there is: the plug-in of Docker, or the program
# (1.29 and newer).
set -euo pipefail
source "$(dirname "$0")/lib.sh"

settings=$local_dir/compose.env
[ -e "$settings" ] || "$root/scripts/settings.sh"

if docker compose version > /dev/null 2>&1; then
  exec docker compose --env-file "$settings" "$@"
elif have docker-compose; then
  exec docker-compose --env-file "$settings" "$@"
fi
fail "no Docker Compose: install docker-compose-plugin (Docker's packages) or docker-compose (Debian's)"
