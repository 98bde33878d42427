"""The supervisor of the local stack: broker, schema, processes; up, watched, and down again."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import aiohttp

from deploy.local import tether
from deploy.local.provide import Broker, NamedBroker
from deploy.local.rabbitmq import free_port
from deploy.local.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

ROLES: Mapping[str, tuple[str, ...]] = {
    "receiver": ("receiver",),
    "events": ("worker", "events"),
    "callbacks": ("worker", "callbacks"),
    "console": ("console",),
}
"""Role → the arguments of ``python -m``, in the order of starting and of stopping."""

WORKING = ("receiver", "events", "callbacks")
"""The roles that an event goes through."""

READY_WITHIN = 30.0
STOP_GRACE = 12.0
BACKOFF_MAX = 30.0
HEALTHY_AFTER = 60.0


class StackError(Exception):
    """The stack cannot be brought up; the message says which part failed and what it said."""


class Child:
    """One process of the stack: started, asked whether it is ready, ended."""

    def __init__(self, name: str, *, env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self.ops_port = free_port()
        self.restarts = 0
        self._command = [sys.executable, "-m", *ROLES[name]]
        self._env = {
            **env,
            "CORREIO_OPS__HOST": "127.0.0.1",
            "CORREIO_OPS__PORT": str(self.ops_port),
        }
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 before the first start."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the process; it dies with this one."""
        with self.log.open("ab") as sink:
            self._process = await asyncio.create_subprocess_exec(
                *tether.bound(self._command),
                cwd=ROOT,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    async def ended(self) -> int:
        """Wait for the process to end; returns its exit status."""
        return await self._process.wait() if self._process else 0

    async def wait_ready(self, http: aiohttp.ClientSession) -> None:
        """Wait until ``/readyz`` says yes.

        Raises:
            StackError: the process ended, or was not ready in time.
        """
        said = "nothing"
        try:
            async with asyncio.timeout(READY_WITHIN):
                while self._process is not None and self._process.returncode is None:
                    ready, said = await self._ask(http)
                    if ready:
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise StackError(f"{self.name} is not ready; /readyz says {said}") from None
        raise StackError(f"{self.name} ended at once; {self.log} ends with:\n{tail(self.log)}")

    async def _ask(self, http: aiohttp.ClientSession) -> tuple[bool, str]:
        try:
            async with http.get(f"http://127.0.0.1:{self.ops_port}/readyz") as response:
                return response.status == 200, await response.text()  # noqa: PLR2004 - HTTP
        except (aiohttp.ClientError, TimeoutError):
            return False, "nothing"

    async def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if it takes longer than it may."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_GRACE):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()


class Stack:
    """Everything that runs, bound together: used as an asynchronous context manager."""

    def __init__(
        self,
        settings: Settings,
        *,
        broker: Broker,
        roles: Sequence[str] = WORKING,
        extra: Mapping[str, str] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """Supervise the processes of `settings`; `extra` is laid over their environment."""
        self._roles = roles
        self.settings = settings
        self.broker = broker
        self.children: list[Child] = []
        self.env: dict[str, str] = {}
        self._extra = dict(extra or {})
        self._say = say

    async def __aenter__(self) -> Self:
        try:
            await self._up()
        except BaseException:
            await self.down()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()

    async def _up(self) -> None:
        self._say(f"Broker: {self.broker.origin}")
        await _to_its_end(asyncio.to_thread(self.broker.start))
        urls = (self.broker.url, self.broker.metrics_url)
        self.env = {**self.settings.environment(*urls), **self._extra}
        self.settings.write_env(*urls)
        await self.correio("migrate")
        logs = self.settings.logs
        self.children = [Child(n, env=self.env, log=logs / f"{n}.log") for n in self._roles]
        for child in self.children:
            await child.start()
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            for child in self.children:
                await child.wait_ready(http)

    async def down(self) -> None:
        """End everything in order: first who takes work in, the broker last."""
        await self.stop_children()
        await asyncio.to_thread(self.broker.stop)

    async def stop_children(self) -> None:
        """End the processes in the order in which work goes through them."""
        for child in self.children:
            await child.stop()

    async def correio(self, *arguments: str, answers: Sequence[int] = (0,)) -> bytes:
        """Run a ``correio`` command against this stack; returns what it printed.

        Raises:
            StackError: its exit status is not among `answers`.
        """
        process = await asyncio.create_subprocess_exec(
            *tether.bound([sys.executable, "-m", "console.cli", *arguments]),
            cwd=ROOT,
            env=self.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            printed, complained = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode not in answers:
            raise StackError(
                f"correio {' '.join(arguments)} exited {process.returncode}: "
                f"{complained.decode(errors='replace')[-2000:]}"
            )
        return printed

    async def watch(self) -> None:
        """Start again whatever ends, until cancelled."""
        await asyncio.gather(self._watch_broker(), *map(self._watch, self.children))

    async def _watch(self, child: Child) -> None:
        pause = 1.0
        while True:
            started = time.monotonic()
            status = await child.ended()
            if time.monotonic() - started > HEALTHY_AFTER:
                pause = 1.0
            child.restarts += 1
            self._say(f"{child.name} ended with {status}; starting it again in {pause:.0f} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACKOFF_MAX)
            await child.start()

    async def _watch_broker(self) -> None:
        if isinstance(self.broker, NamedBroker):
            return
        while True:
            await asyncio.sleep(1)
            if not self.broker.running:
                self._say("the broker ended; starting it again")
                await asyncio.to_thread(self.broker.restart)


async def _to_its_end(work: Awaitable[None]) -> None:
    """Await work in a thread that cannot be interrupted: when cancelled, only after its end."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def tail(path: Path, *, lines: int = 15) -> str:
    """The last lines of a log."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-lines:])
