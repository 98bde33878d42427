#!/bin/sh
# Make a RabbitMQ 4 for tests on a machine whose own is older, without containers: a small Debian
# in a folder, and scripts that start its server there. Linux, as root, with debootstrap.
# usage: rabbitmq4.sh FOLDER; then CORREIO_RABBITMQ_SCRIPTS=FOLDER/scripts make test
set -eu

mkdir -p "$1"
folder=$(cd "$1" && pwd)
root=$folder/root

# The Debian mirror that this machine itself installs from, unless MIRROR names another.
sources() {
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
        awk '$1 == "URIs:" { print $2 }'
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\).*/\2/p'
}
mirror=${MIRROR:-$(sources | grep '/debian/*$' | head -n 1)}
if [ -z "$mirror" ]; then
    echo "no Debian mirror in /etc/apt; name one in MIRROR" >&2
    exit 1
fi

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
