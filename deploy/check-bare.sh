#!/bin/bash
# Prove that a fresh clone needs nothing else: clone the last commit into a temporary folder, build
# its environment from the pinned constraints alone, and run demo, tests and lint there.
# Whatever still runs in that folder afterwards was left behind.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d /tmp/bare-XXXX)  # short: sockets live below it
trap 'rm -rf "$folder"' EXIT
clone=$folder/correio

timed() {
    local limit=$1 started=$SECONDS
    shift
    printf '\n== %s (at most %s s)\n' "$*" "$limit"
    timeout --foreground "$limit" "$@" </dev/null
    printf '== %s took %s s\n' "$*" "$((SECONDS - started))"
}

git clone --quiet "$root" "$clone"
cd "$clone"
mkdir "$folder/tmp"
chmod 755 "$folder"  # PostgreSQL refuses to run as root and must reach its folder as somebody else
export TMPDIR=$folder/tmp
unset CORREIO_CONFIG CORREIO_BROKER__URL CORREIO_STORE__URL VIRTUAL_ENV PYTHONPATH

timed 300 make demo
timed 30 make demo
timed 600 make test
timed 300 make lint

cd /
left=$(for process in /proc/[0-9]*; do
    said=$(readlink "$process/cwd"; tr '\0' ' ' <"$process/cmdline") 2>/dev/null || continue
    case $said in *"$folder"*) printf '%s %s\n' "${process#/proc/}" "$said" ;; esac
done)
if [ -n "$left" ]; then
    printf 'left running:\n%s\n' "$left" >&2
    exit 1
fi
printf '\nA fresh clone demonstrates, tests and lints itself, and leaves nothing running.\n'
