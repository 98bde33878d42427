#!/bin/sh
# Make the secrets of the compose stack, once; what is there already stays.
set -eu
umask 077
folder=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)/secrets
mkdir -p "$folder"

fresh() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
key() { head -c 32 /dev/urandom | base64; }
keep() { [ -s "$folder/$1" ] || printf '%s\n' "$2" >"$folder/$1"; }

for name in rabbitmq-password postgres-password grafana-password source-klavi operator; do
    keep "$name" "$(fresh)"
done
keep sealing-keys "first:$(key)"
keep sealing-index-key "$(key)"
keep rabbitmq-conf "default_user = correio
default_pass = $(cat "$folder/rabbitmq-password")"
keep broker-url "amqp://correio:$(cat "$folder/rabbitmq-password")@rabbitmq:5672/"
keep store-url "postgresql://correio:$(cat "$folder/postgres-password")@postgres:5432/correio"
# The containers' user reads them; the folder keeps everybody else on this machine out.
chmod 0700 "$folder"
chmod 0644 "$folder"/*
echo "Put the provider's secret into $folder/source-klavi: what is there is random."
echo "Secrets are in $folder. The console's token: $(cat "$folder/operator")"
