"""Real processes of ours, for tests that start, stop and kill them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from deploy.local.rabbitmq import free_port
from deploy.local.tether import spawn

ROOT = Path(__file__).parents[2]


class Process:
    """One process of a role, ``events`` or ``callbacks`` of the worker or the receiver."""

    def __init__(self, arguments: tuple[str, ...], *, config: Path, log: Path) -> None:
        self.arguments = arguments
        self.port = free_port()
        self.log = log
        self.root = ROOT
        self.env: dict[str, str] = {}
        self.prefix: list[str] = []
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = spawn(
            [*self.prefix, sys.executable, "-m", *self.arguments],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(self.root),
                "CORREIO_CONFIG": str(self._config),
                "CORREIO_OPS__PORT": str(self.port),
                **self.env,
            },
            output=self.log,
            when_orphaned=signal.SIGKILL,
            cwd=self.root,
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self, *, within: float = 10) -> int:
        """SIGTERM; returns the exit status, or raises if it takes longer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(within)

    async def until_ready(self, *, limit: float = 30, ready: bool = True) -> None:
        """Return once ``/readyz`` says so."""
        wanted = 200 if ready else 503
        async with asyncio.timeout(limit), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{self.port}/readyz") as answer:
                        if answer.status == wanted:
                            return
                except aiohttp.ClientError:
                    if not self.running:
                        raise AssertionError(self.log.read_text()[-2000:]) from None
                await asyncio.sleep(0.05)


@contextmanager
def process(*arguments: str, config: Path, log: Path) -> Iterator[Process]:
    """A process that is not started yet, and is gone afterwards."""
    made = Process(arguments, config=config, log=log)
    try:
        yield made
    finally:
        made.kill()


def write_config(folder: Path, **sections: Any) -> Path:
    """A configuration file with these sections; values are written as JSON, which TOML reads."""
    lines = []
    for section, fields in sections.items():
        tables = fields if isinstance(fields, list) else [fields]
        for table in tables:
            lines.append(f"[[{section}]]" if isinstance(fields, list) else f"[{section}]")
            lines += [f"{name} = {json.dumps(value)}" for name, value in table.items()]
    path = folder / "correio.toml"
    path.write_text("\n".join(lines))
    return path
