"""RabbitMQ, Prometheus, PgBouncer and Chromium from the distribution, where we may install them."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from deploy.local.rabbitmq import BrokerError

REFUSAL_VARIABLE = "CORREIO_NO_INSTALL"
"""Set it to keep the local stack from installing anything outside its folder."""

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))

# The package's service is neither started now (the policy says no, and goes again) nor at boot:
# the machine's user asked for a private node, not for a broker of the machine.
_APT = """
set -e
policy=/usr/sbin/policy-rc.d
made=
trap 'test -z "$made" || rm -f "$policy"' EXIT
trap 'exit 1' HUP INT TERM
if [ ! -e "$policy" ]; then
    made=yes
    printf '#!/bin/sh\\nexit 101\\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get -q -o DPkg::Lock::Timeout=120 update
apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "$1"
if [ -d /run/systemd/system ]; then systemctl disable --quiet "$1" || true; fi
"""


def may_install() -> bool:
    """Whether packages can be installed without asking anybody for a password."""
    if os.environ.get(REFUSAL_VARIABLE) or shutil.which("apt-get") is None:
        return False
    if os.geteuid() == 0:
        return True
    if shutil.which("sudo") is None:
        return False
    return subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0


def install_rabbitmq() -> None:
    """Install ``rabbitmq-server`` without starting the machine's own broker.

    Raises:
        BrokerError: the package manager failed; its last words are in the message.
    """
    said = _install("rabbitmq-server")
    if said is not None:
        raise BrokerError(f"installing rabbitmq-server failed:\n{said}")


def find_promtool(*, say: Callable[[str], None] = print) -> Path | None:
    """The checker of alert rules, installed with ``prometheus`` if need be; None without one."""
    return _find("promtool", package="prometheus", say=say)


def find_chromium(*, say: Callable[[str], None] = print) -> Path | None:
    """The browser that looks at the console's page, installed if need be; None without one."""
    return _find("chromium", package="chromium", say=say)


def find_pgbouncer(*, say: Callable[[str], None] = print) -> Path | None:
    """The pooler of PostgreSQL connections, installed if need be; None without one."""
    return _find("pgbouncer", package="pgbouncer", say=say)


def _find(program: str, *, package: str, say: Callable[[str], None]) -> Path | None:
    found = shutil.which(program, path=_PATH)
    if found is None and may_install():
        say(f"Installing {package} from the distribution (no service of it is started) …")
        said = _install(package)
        if said is not None:
            say(f"installing {package} failed:\n{said}")
        found = shutil.which(program, path=_PATH)
    return Path(found) if found else None


def _install(package: str) -> str | None:
    """Install a package whose service has its name; returns what was said if it failed."""
    become_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    done = subprocess.run(
        [*become_root, "env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", _APT, "sh", package],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    return done.stdout[-2000:] if done.returncode else None
