"""PgBouncer before a PostgreSQL server, sharing few connections by transaction."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.install import find_pgbouncer
from deploy.local.postgres import UNPRIVILEGED, USER, Postgres, as_other
from deploy.local.rabbitmq import free_port
from deploy.local.tether import spawn

_SETTINGS = """\
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 500
server_login_retry = 1
query_wait_timeout = 10
"""


class PgBouncer:
    """One pooler, in a folder of its own."""

    def __init__(self, server: Postgres, *, connections: int) -> None:
        """`connections`: how many it has with each database, for all clients together."""
        found = find_pgbouncer()
        if found is None:
            raise RuntimeError("PgBouncer is not installed: apt-get install pgbouncer")
        self._program = found
        self._folder = Path(tempfile.mkdtemp(prefix="correio-pgbouncer-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        (self._folder / "users").write_text(f'"{USER}" ""\n')
        (self._folder / "settings").write_text(
            _SETTINGS.format(
                server=server.port, port=self.port, folder=self._folder, connections=connections
            )
        )
        if os.geteuid() == 0:
            shutil.chown(self._folder, UNPRIVILEGED)

    def url_of(self, database: str) -> str:
        """URL of a database of the server behind it."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it; returns when it listens."""
        self._process = spawn(
            [*as_other(), self._program, self._folder / "settings"],
            env={"PATH": os.environ.get("PATH", os.defpath)},
            output=self._folder / "log",
            when_orphaned=signal.SIGKILL,
        )
        deadline = time.monotonic() + 20
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError((self._folder / "log").read_text(errors="replace")[-2_000:])

    def kill(self) -> None:
        """End it without a word to anybody."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _raised: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
