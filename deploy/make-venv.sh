#!/bin/sh
# Make a virtual environment with Correio and its pinned dependencies.
# usage: make-venv.sh FOLDER PYTHON
set -eu

venv=$1
python=$2

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Run a command as root if that needs no password; fail otherwise.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

may_install() {
    [ -z "${CORREIO_NO_INSTALL:-}" ] && command -v apt-get >/dev/null && as_root true 2>/dev/null
}

install_packages() {
    printf 'Installing %s from the distribution …\n' "$*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update </dev/null
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends \
        "$@" </dev/null >/dev/null
}

if [ -z "$python" ]; then
    if ! command -v python3 >/dev/null && may_install; then
        install_packages python3 python3-venv
    fi
    python=$("$(dirname "$0")/find-python.sh")
    [ -n "$python" ] || fail "Correio needs Python 3.11 or newer." \
        "Found: $(python3 --version 2>/dev/null || echo none)." \
        "Install one, or name it: make PYTHON=/path/to/python3.11 setup"
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
    if may_install; then
        install_packages "python$version-venv"
    else
        fail "$python cannot make virtual environments." \
            "Install its module, for example: sudo apt-get install python$version-venv"
    fi
fi

# One that is not whole, or whose Python has gone, is made anew.
"$venv/bin/python" -c 'import pip' 2>/dev/null || rm -rf "$venv"
[ -d "$venv" ] || "$python" -m venv "$venv"

printf 'Installing the pinned dependencies into %s …\n' "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable '.[dev]'
