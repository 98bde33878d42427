#!/bin/sh
# Make the secrets of the compose stack, once; what is there already stays.
# usage: make-secrets.sh [FOLDER]
set -eu
umask 077
deploy=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
folder=${1:-$deploy/compose/secrets}
mkdir -p "$folder"

fresh() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

for name in postgres-password grafana-password; do
    [ -s "$folder/$name" ] || printf '%s\n' "$(fresh)" >"$folder/$name"
done
BROKER=rabbitmq:5672/ CORREIO_GROUP=$(id -g) \
    STORE="postgresql://correio:$(cat "$folder/postgres-password")@postgres:5432/correio" \
    "$deploy/systemd/make-secrets.sh" "$folder" >/dev/null
"$deploy/rabbitmq/add-users.sh" --print "$folder/broker" >"$folder/rabbitmq-definitions"
# The containers' users read them; the folder keeps everybody else on this machine out.
chmod 0700 "$folder"
find "$folder" -maxdepth 1 -type f -exec chmod 0644 {} +
echo "Put the provider's secret into $folder/source-klavi: what is there is random."
echo "Secrets are in $folder. The console's token: $(cat "$folder/operator")"
