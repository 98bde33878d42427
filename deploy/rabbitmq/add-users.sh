#!/bin/sh
# Make one user for each role with the rights of rights.txt; passwords are read from files.
# usage: add-users.sh [--print] FOLDER [VHOST]    FOLDER holds one file per user, named like it
# --print writes the definitions to standard output and leaves it to you to hand them to a broker
# elsewhere, such as in a container: rabbitmqctl import_definitions FILE, or load_definitions = FILE.
# RABBITMQCTL names the command to use, rabbitmqctl unless set. May be run again.
set -eu
umask 077

only_print=
if [ "$1" = --print ]; then only_print=yes; shift; fi
folder=$1
vhost=${2:-/}
ctl=${RABBITMQCTL:-rabbitmqctl}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

text() {
    printf '"%s"' "$(printf '%s' "$1" | sed 's/[\\"]/\\&/g')"
}

definitions() {
    users='' permissions='' comma=''
    while read -r user configure write read tags; do
        password=$(head -n 1 "$folder/$user")
        users="$users$comma{\"name\":$(text "$user"),\"password\":$(text "$password"),\
\"tags\":$(text "$tags")}"
        permissions="$permissions$comma{\"user\":$(text "$user"),\"vhost\":$(text "$vhost"),\
\"configure\":$(text "$configure"),\"write\":$(text "$write"),\"read\":$(text "$read")}"
        comma=,
    done <<EOF
$(grep -v '^#' "$here/rights.txt")
EOF
    printf '{"vhosts":[{"name":%s}],"users":[%s],"permissions":[%s]}\n' \
        "$(text "$vhost")" "$users" "$permissions"
}

if [ "$only_print" ]; then
    definitions
    exit
fi

# By a file, since rabbitmqctl of RabbitMQ 4.0 does not hear the end of its standard input; and
# never as arguments, which all may read.
file=$(mktemp)
trap 'rm -f "$file"' EXIT
definitions >"$file"
if [ "$(id -u)" = 0 ] && id rabbitmq >/dev/null 2>&1; then  # as whom a package's rabbitmqctl runs
    chown rabbitmq "$file"
fi
$ctl --quiet await_startup </dev/null
$ctl --quiet import_definitions "$file" </dev/null
