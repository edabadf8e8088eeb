#!/bin/bash
# Runs a command with DATABASE_URL of a throw-away Postgres that has every migration.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
"$root/scripts/tools.sh" demo sqlx
"$root/scripts/images.sh"
image=$(sed -n 's/^POSTGRES_IMAGE=//p' "$local_dir/images.env")

container=$(docker run --rm --detach --label octopus-process-manager=test --publish 127.0.0.1::5432 \
  --env POSTGRES_PASSWORD=postgres --tmpfs /var/lib/postgresql/data "$image" -c fsync=off)
trap 'docker rm --force --volumes "$container" > /dev/null' EXIT
for ((try = 0; try < 120; try++)); do
  # By address: the server that sets the database up listens on its socket only.
  docker exec "$container" pg_isready --quiet --host=127.0.0.1 && break
  sleep 0.5
done
address=$(docker port "$container" 5432/tcp | head -n 1)
export DATABASE_URL=postgres://postgres:postgres@$address/postgres PATH=$kept_dir/tools/bin:$PATH
sqlx migrate run --source migrations > /dev/null
"$@"
