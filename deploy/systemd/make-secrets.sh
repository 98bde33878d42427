#!/bin/sh
# Make the secrets of a host or of a cluster's overlay, once; what is there already stays.
# usage: make-secrets.sh [FOLDER]
# BROKER and STORE say where those are; CORREIO_GROUP is the group of the processes. With MANAGEMENT,
# as rabbitmq:15672/%2F, there is a URL for KEDA, too.
set -eu
umask 077
folder=${1:-/etc/correio/secrets}
broker=${BROKER:-127.0.0.1:5672/}
store=${STORE:-sqlite:////var/lib/correio/correio.db}
group=${CORREIO_GROUP:-correio}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

fresh() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
key() { head -c 32 /dev/urandom | base64; }
keep() { [ -s "$folder/$1" ] || printf '%s\n' "$2" >"$folder/$1"; }

mkdir -p "$folder/broker"
for user in $(grep -o '^correio-[a-z]*' "$here/../rabbitmq/rights.txt"); do
    keep "broker/$user" "$(fresh)"
    role=${user#correio-}
    [ "$role" = scaler ] || keep "broker-url-$role" "amqp://$user:$(cat "$folder/broker/$user")@$broker"
done
[ -z "${MANAGEMENT:-}" ] ||
    keep management-url "http://correio-scaler:$(cat "$folder/broker/correio-scaler")@$MANAGEMENT"
keep store-url "$store"
keep sealing-keys "first:$(key)"
keep sealing-index-key "$(key)"
keep source-klavi "$(fresh)"
keep operator "$(fresh)"
# systemd hands the others to each unit; these two are named by the configuration that all read.
chgrp "$group" "$folder" "$folder/source-klavi" "$folder/operator"
chmod 0750 "$folder"
chmod 0640 "$folder/source-klavi" "$folder/operator"
echo "Put the provider's secret into $folder/source-klavi: what is there is random."
echo "The console's token is in $folder/operator."
