#!/bin/sh
# Make one user for each role with the rights of rights.txt; passwords are read from files.
# usage: add-users.sh FOLDER [VHOST]    FOLDER holds one file per user, named like it
# RABBITMQCTL names the command to use, rabbitmqctl unless set. May be run again.
set -eu

folder=$1
vhost=${2:-/}
ctl=${RABBITMQCTL:-rabbitmqctl}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

grep -v '^#' "$here/rights.txt" | while read -r user configure write read; do
    password=$(cat "$folder/$user")
    if $ctl --quiet list_users </dev/null | grep -q "^$user[[:space:]]"; then
        $ctl --quiet change_password "$user" "$password" </dev/null
    else
        $ctl --quiet add_user "$user" "$password" </dev/null
    fi
    $ctl --quiet set_permissions --vhost "$vhost" "$user" "$configure" "$write" "$read" </dev/null
done
