#!/bin/sh
# Make one user for each role with the rights of rights.txt; passwords are read from files.
# usage: add-users.sh FOLDER [VHOST]    FOLDER holds one file per user, named like it
# RABBITMQCTL names the command to use, rabbitmqctl unless set; it must hand on its standard input.
# May be run again.
set -eu

folder=$1
vhost=${2:-/}
ctl=${RABBITMQCTL:-rabbitmqctl}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

$ctl --quiet await_startup </dev/null
known=$($ctl --quiet list_users </dev/null)
grep -v '^#' "$here/rights.txt" | while read -r user configure write read tags; do
    change=add_user
    if printf '%s\n' "$known" | grep -q "^$user[[:space:]]"; then change=change_password; fi
    $ctl --quiet "$change" "$user" <"$folder/$user"  # not as an argument, which all may read
    $ctl --quiet set_permissions --vhost "$vhost" "$user" "$configure" "$write" "$read" </dev/null
    [ -z "$tags" ] || $ctl --quiet set_user_tags "$user" "$tags" </dev/null
done
