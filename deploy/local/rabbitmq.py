"""A private RabbitMQ node made of an installed ``rabbitmq-server``.

Everything of the node is its own: name, ports, port mapper (epmd), cookie, configuration, data
and logs, all in one folder, so that it neither meets nor disturbs a broker of the machine. It
listens on the loopback interface only.
"""

import atexit
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_fixed

from deploy.local import tether

SCRIPTS_VARIABLE = "CORREIO_RABBITMQ_SCRIPTS"
"""Names a folder with ``rabbitmq-server`` and ``rabbitmqctl`` to use instead of the installed."""

USER = "correio"
NODE_NAME = "correio@localhost"
LOOPBACK = "127.0.0.1"

# Below the range that Linux and macOS give to outgoing connections, so a port found free stays so.
_PORTS = range(20_000, 30_000)
_HELD_MAX = 256
_held: deque[socket.socket] = deque()

# Debian's wrapper on the PATH changes the user and drops the environment; the script behind it
# does neither.
_SCRIPT_FOLDERS = (
    "/usr/lib/rabbitmq/bin",
    "/opt/rabbitmq/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)

_AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = b"\x01"

_CONFIG = """\
listeners.tcp.1 = {address}:{port}
default_user = {user}
default_pass = {password}
log.console = false
# A laptop is not a server: little memory, little disk, and a small write-ahead log to replay.
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 33554432
"""

_METRICS = """\
prometheus.tcp.ip = {address}
prometheus.tcp.port = {metrics}
"""


# Erlang asks for "localhost" by name; not every machine or container can resolve it.
_INETRC = """\
{host, {127,0,0,1}, ["localhost"]}.
{lookup, [file, native]}.
"""


class BrokerError(Exception):
    """No broker can be had; the message says why and what to do."""


def find_scripts() -> Path | None:
    """The folder of the server's scripts; None when RabbitMQ is not installed here."""
    named = os.environ.get(SCRIPTS_VARIABLE)
    on_path = shutil.which("rabbitmq-server")
    beside = [str(Path(on_path).resolve().parent)] if on_path else []
    for folder in [named] if named else [*_SCRIPT_FOLDERS, *beside]:
        if (Path(folder) / "rabbitmq-server").exists():
            return Path(folder)
    return None


def free_port() -> int:
    """A port of the loopback interface that nobody uses, nor is given to another who asks here.

    It stays bound without listening, until this process has asked for 256 more or ends: who asks
    anywhere else on the machine finds it taken, while a server, which binds with SO_REUSEADDR,
    may have it.
    """
    for _ in range(200):
        port = random.choice(_PORTS)  # noqa: S311 - not a secret
        held = socket.socket()
        try:
            held.bind((LOOPBACK, port))
        except OSError:
            held.close()
            continue
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _held.append(held)
        if len(_held) > _HELD_MAX:
            _held.popleft().close()
        return port
    raise BrokerError(f"no free port among {_PORTS.start} to {_PORTS.stop}")


@atexit.register
def _let_go() -> None:
    while _held:
        _held.pop().close()


def _was_not_heard(error: BaseException) -> bool:
    """Whether a busy node did not take the connection, so that nothing was done."""
    return isinstance(error, BrokerError) and "failed to connect" in str(error)


def speaks_amqp(port: int) -> bool:
    """Whether a broker greets us at this port of the loopback interface."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
            connection.sendall(_AMQP_HEADER)
            return connection.recv(1) == _METHOD_FRAME
    except OSError:
        return False


class Node:
    """One node, its data in `folder`, which it may keep from one run to the next.

    Its URL stays the same over `restart`. The methods block; from an event loop call them with
    ``asyncio.to_thread``. The node is killed by the kernel should this process die first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        scripts: Path | None = None,
        metrics: bool = False,
        settings: str = "",
        plugins: tuple[str, ...] = (),
    ) -> None:
        """`settings` are further lines of its configuration file, `plugins` are to run too.

        With `metrics`, the Prometheus plugin runs too; stopping then takes 5 s longer.
        """
        self._metrics = metrics
        self._settings = settings
        self._plugins = plugins
        found = scripts or find_scripts()
        if found is None:
            raise BrokerError("rabbitmq-server is not installed")
        self.folder = folder.resolve()
        self.origin = f"a private node of {found}"
        self._scripts = found
        self._beam: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._password = ""
        self._ports = (0, 0, 0, 0)

    @property
    def port(self) -> int:
        """The AMQP port; 0 before the first start."""
        return self._ports[0]

    @property
    def url(self) -> str:
        """AMQP URL of the virtual host ``/``."""
        return self.vhost_url("/")

    @property
    def metrics_url(self) -> str:
        """Where the node's Prometheus plugin answers; empty without it."""
        return f"http://{LOOPBACK}:{self._ports[3]}" if self._metrics else ""

    @property
    def running(self) -> bool:
        """Whether the node's process lives, paused or not."""
        return self._beam is not None and self._beam.poll() is None

    @property
    def pids(self) -> list[int]:
        """The processes that live."""
        return [p.pid for p in (self._beam, self._epmd) if p is not None and p.poll() is None]

    def vhost_url(self, vhost: str) -> str:
        """AMQP URL of a virtual host."""
        place = quote(vhost, safe="")
        return f"amqp://{USER}:{self._password}@{LOOPBACK}:{self.port}/{place}"

    def start(self, *, timeout: float = 90.0) -> None:
        """Start the node and wait until it greets clients.

        Raises:
            BrokerError: it ended, or did not answer within `timeout` seconds.
        """
        if self.running:
            return
        deadline = time.monotonic() + timeout
        known = self.port != 0
        for _ in range(3):
            if not known:
                self._ports = (free_port(), free_port(), free_port(), free_port())
            self._launch()
            if self._await_greeting(deadline):
                return
            self.stop()
            if known or "eaddrinuse" not in self._said():
                break
        raise BrokerError(
            f"RabbitMQ did not start; see {self.folder}/log. It said:\n{self._said()}"
        )

    def stop(self) -> None:
        """End the node in good order, and its port mapper with it."""
        if self._beam is not None:
            if self.running:
                self._beam.send_signal(signal.SIGCONT)
            tether.end(self._beam, grace=20)
        self._end_epmd()

    def restart(self) -> None:
        """Stop and start on the same ports and data."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """End the node as a power cut would."""
        if self._beam is not None:
            tether.kill(self._beam)
        self._end_epmd()

    def pause(self) -> None:
        """Stop the node's process in its tracks: connections stand, nothing answers."""
        if self._beam is not None:
            self._beam.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self._beam.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Undo `pause`."""
        if self._beam is not None:
            self._beam.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Lose all data of the stopped node: queues, messages and virtual hosts."""
        if self.running:
            raise BrokerError("the node runs; stop it before its data is wiped")
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` on the node (about a second) and return what it printed.

        Raises:
            BrokerError: it failed.
        """
        return self._ask([self._scripts / "rabbitmqctl", "--quiet", *arguments])

    def ctl_script(self) -> str:
        """A shell script that is ``rabbitmqctl`` for this node."""
        env = " ".join(
            f"{name}={shlex.quote(value)}" for name, value in self._environment().items()
        )
        return f'#!/bin/sh\nexec env {env} {self._scripts}/rabbitmqctl "$@"\n'

    def evaluate(self, expression: str) -> str:
        """Evaluate an Erlang expression on the node and return the printed result.

        Takes milliseconds where ``erl_call`` is installed, else as long as `rabbitmqctl`.

        Raises:
            BrokerError: it failed.
        """
        fast = shutil.which("erl_call")
        if fast is None:
            return self.rabbitmqctl("eval", f"{expression}.")
        cookie = (self.folder / ".erlang.cookie").read_text()
        command: list[str | Path] = [fast, "-sname", NODE_NAME, "-c", cookie, "-e"]
        for attempt in Retrying(
            retry=retry_if_exception(_was_not_heard),
            wait=wait_fixed(0.2),
            stop=stop_after_attempt(5),
            reraise=True,
        ):
            with attempt:
                printed = self._ask(command, f"{expression}.\n")
        if not printed.startswith("{ok, "):
            raise BrokerError(f"{expression} failed: {printed}")
        return printed.removeprefix("{ok, ").removesuffix("}")

    def add_vhost(self, name: str) -> str:
        """Make a virtual host that our user may do everything in; returns its URL."""
        self.evaluate(
            f'rabbit_vhost:add(<<"{name}">>, <<"{USER}">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"{USER}">>, <<"{name}">>, '
            f'<<".*">>, <<".*">>, <<".*">>, <<"{USER}">>)'
        )
        return self.vhost_url(name)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host, its queues and their messages; its connections are closed."""
        self.evaluate(f'rabbit_vhost:delete(<<"{name}">>, <<"{USER}">>)')

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _raised: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        self._write_files()
        env = self._environment()
        epmd = shutil.which("epmd")
        if epmd is None:
            raise BrokerError("epmd is missing although RabbitMQ is installed: reinstall Erlang")
        console = self.folder / "log" / "console.log"
        console.unlink(missing_ok=True)
        # Left to itself, the node would start an epmd that outlives it.
        self._epmd = tether.spawn(
            [epmd, "-port", env["ERL_EPMD_PORT"], "-address", LOOPBACK],
            env=env,
            output=console,
            when_orphaned=signal.SIGKILL,
        )
        self._beam = tether.spawn(
            [self._scripts / "rabbitmq-server"],
            env=env,
            output=console,
            cwd=self.folder,
            when_orphaned=signal.SIGKILL,
        )

    def _write_files(self) -> None:
        for name in ("data", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._password = kept_secret(self.folder / "password")
        kept_secret(self.folder / ".erlang.cookie", mode=0o400)
        config = _CONFIG.format(
            address=LOOPBACK, port=self.port, user=USER, password=self._password
        )
        config += self._settings
        plugins = list(self._plugins)
        if self._metrics:
            config += _METRICS.format(address=LOOPBACK, metrics=self._ports[3])
            plugins.append("rabbitmq_prometheus")
        (self.folder / "rabbitmq.conf").write_text(config)
        (self.folder / "advanced.config").write_text("[].\n")
        (self.folder / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
        (self.folder / "rabbitmq-env.conf").write_text("")
        (self.folder / "inetrc").write_text(_INETRC)

    def _environment(self) -> dict[str, str]:
        _, distribution, epmd, _ = self._ports
        folder = self.folder
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_INETRC": str(folder / "inetrc"),
            "RABBITMQ_NODENAME": NODE_NAME,
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_MNESIA_DIR": str(folder / "data" / "node"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "data" / "config"),
            "RABBITMQ_SCHEMA_DIR": str(folder / "data" / "schema"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "data" / "pid"),
            # The script then becomes the node instead of waiting beside it: one process to signal.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none"
            ),
        }

    def _await_greeting(self, deadline: float) -> bool:
        while self.running and time.monotonic() < deadline:
            if speaks_amqp(self.port):
                return True
            time.sleep(0.05)
        return False

    def _end_epmd(self) -> None:
        if self._epmd is not None:
            tether.kill(self._epmd)  # it keeps nothing worth an orderly end

    def _said(self) -> str:
        console = self.folder / "log" / "console.log"
        return console.read_text(errors="replace")[-2000:] if console.exists() else ""

    def _ask(self, command: list[str | Path], text: str = "") -> str:
        done = subprocess.run(
            list(map(str, command)),
            env=self._environment(),
            input=text,
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise BrokerError(f"{command[0]} failed: {done.stderr or done.stdout}")
        return done.stdout.strip()


def kept_secret(path: Path, *, mode: int = 0o600) -> str:
    """The secret kept in a file, made at random when there is none yet."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(24))
        path.chmod(mode)
    return path.read_text()
