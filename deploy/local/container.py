"""A private RabbitMQ node in a container, for machines that have an engine and no RabbitMQ."""

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from deploy.local import tether
from deploy.local.rabbitmq import LOOPBACK, USER, BrokerError, free_port, kept_secret, speaks_amqp

IMAGE = "rabbitmq:4"
ENGINES = ("docker", "podman")


def find_engine() -> str | None:
    """The first engine that is installed and whose daemon answers."""
    for name in ENGINES:
        if shutil.which(name) is None:
            continue
        try:
            done = subprocess.run([name, "info"], capture_output=True, timeout=10, check=False)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return name
    return None


class ContainerNode:
    """The same as `deploy.local.rabbitmq.Node`, its data in a volume named after `folder`."""

    def __init__(self, folder: Path, *, engine: str) -> None:
        self.folder = folder.resolve()
        self.origin = f"a private node in a container ({engine}, {IMAGE})"
        self._engine = engine
        digest = hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        self._name = f"correio-{digest}"
        self._port = 0
        self._metrics_port = 0
        self._password = ""
        self._client: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """AMQP URL of the virtual host ``/``."""
        return self.vhost_url("/")

    @property
    def metrics_url(self) -> str:
        """Where the Prometheus plugin answers, which the image enables by itself."""
        return f"http://{LOOPBACK}:{self._metrics_port}"

    @property
    def running(self) -> bool:
        """Whether the container lives, paused or not."""
        return self._client is not None and self._client.poll() is None

    def vhost_url(self, vhost: str) -> str:
        """AMQP URL of a virtual host."""
        return f"amqp://{USER}:{self._password}@{LOOPBACK}:{self._port}/{quote(vhost, safe='')}"

    def start(self, *, timeout: float = 300.0) -> None:
        """Run the container, its image being fetched if need be, and wait for its greeting.

        Raises:
            BrokerError: it ended, or did not answer within `timeout` seconds.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._password = kept_secret(self.folder / "password")
        self._port = self._port or free_port()
        self._metrics_port = self._metrics_port or free_port()
        log = self.folder / "container.log"
        # The engine's client stays in the foreground and passes the tether's SIGTERM on.
        self._client = tether.spawn(
            [
                *(self._engine, "run", "--rm", "--name", self._name, "--hostname", "correio"),
                *("--publish", f"{LOOPBACK}:{self._port}:5672"),
                *("--publish", f"{LOOPBACK}:{self._metrics_port}:15692"),
                *("--volume", f"{self._name}:/var/lib/rabbitmq"),
                *("--env", "RABBITMQ_DEFAULT_USER", "--env", "RABBITMQ_DEFAULT_PASS", IMAGE),
            ],
            env=os.environ
            | {"RABBITMQ_DEFAULT_USER": USER, "RABBITMQ_DEFAULT_PASS": self._password},
            output=log,
        )
        deadline = time.monotonic() + timeout
        while self.running and time.monotonic() < deadline:
            if speaks_amqp(self._port):
                return
            time.sleep(0.2)
        self.stop()
        said = log.read_text(errors="replace")[-2000:]
        raise BrokerError(f"the container did not start; {log} ends with:\n{said}")

    def stop(self) -> None:
        """End the node in good order; the volume stays."""
        if self._client is not None and self.running:
            self._call("stop", "--time", "20", self._name)
            tether.end(self._client, grace=20)

    def restart(self) -> None:
        """Stop and start on the same port and data."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """End the node as a power cut would."""
        if self._client is not None and self.running:
            self._call("kill", self._name)
            tether.end(self._client, grace=20)

    def pause(self) -> None:
        """Freeze the container: connections stand, nothing answers."""
        self._call("pause", self._name)

    def resume(self) -> None:
        """Undo `pause`."""
        self._call("unpause", self._name)

    def wipe(self) -> None:
        """Lose all data of the stopped node."""
        if self.running:
            raise BrokerError("the node runs; stop it before its data is wiped")
        self._call("volume", "rm", "--force", self._name)

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` in the container and return what it printed.

        Raises:
            BrokerError: it failed.
        """
        return self._call("exec", self._name, "rabbitmqctl", "--quiet", *arguments)

    def add_vhost(self, name: str) -> str:
        """Make a virtual host that our user may do everything in; returns its URL."""
        self.rabbitmqctl("add_vhost", name)
        self.rabbitmqctl("set_permissions", "--vhost", name, USER, ".*", ".*", ".*")
        return self.vhost_url(name)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host, its queues and their messages."""
        self.rabbitmqctl("delete_vhost", name)

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

    def _call(self, *arguments: str) -> str:
        command = [self._engine, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise BrokerError(f"{' '.join(command[:3])} failed: {done.stderr or done.stdout}")
        return done.stdout.strip()
