#!/bin/sh
# Make a RabbitMQ 4 for tests on a machine whose own is older, without containers: a small Debian
# in a folder, and scripts that start its server there. Linux, as root, with debootstrap.
# usage: rabbitmq4.sh FOLDER; then CORREIO_RABBITMQ_SCRIPTS=FOLDER/scripts make test
set -eu

mkdir -p "$1"
folder=$(cd "$1" && pwd)
root=$folder/root
mirror=${MIRROR:-http://deb.debian.org/debian}

if [ ! -x "$root/usr/lib/rabbitmq/bin/rabbitmq-server" ]; then
    rm -rf "$root"
    debootstrap --variant=minbase --include=rabbitmq-server trixie "$root" "$mirror" >"$folder/log"
fi

mkdir -p "$folder/scripts"
for name in rabbitmq-server rabbitmqctl; do
    # The node's own folders lie below the temporary folder, which both sides must see alike; the
    # mounts belong to the process alone and end with it.
    cat >"$folder/scripts/$name" <<SCRIPT
#!/bin/sh
exec unshare --mount sh -c '
    for shared in /tmp /proc /dev; do mount --bind "\$shared" "\$0\$shared"; done
    exec chroot "\$0" /usr/lib/rabbitmq/bin/$name "\$@"
' "$root" "\$@"
SCRIPT
    chmod +x "$folder/scripts/$name"
done
echo "$folder/scripts"
