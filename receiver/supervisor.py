"""Several receiver processes on one port: started, watched, replaced and stopped together.

The kernel spreads new connections over them (``SO_REUSEPORT``). Each has a spool file of its own
and its own port for health and metrics: the supervisor's is ``ops.port``, those of the processes
follow it, one by one. With ``ops.port = 0`` each takes a free port and logs it.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Final

from shared.clock import Clock, SystemClock
from shared.config import Config
from shared.logs import get_logger
from shared.ops import Check

log = get_logger(__name__)

CHILD_VARIABLE: Final = "CORREIO_RECEIVER_CHILD"
"""Set in the environment of the processes that a supervisor starts."""
RESTART_DELAY: Final = 0.5
KILL_MARGIN: Final = 1.0
"""Seconds that a process gets beyond its own time for stopping."""


class Supervisor:
    """Keeps ``receiver.processes`` receivers running."""

    def __init__(self, config: Config, *, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self.port = config.receiver.port

    @property
    def checks(self) -> Mapping[str, Check]:
        """Ready while every process runs; whether each is ready, it says itself."""
        return {"processes": self._check}

    @property
    def pids(self) -> list[int]:
        """The processes that run."""
        return [process.pid for process in self._running.values()]

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the processes running until `stop` is set, then end them in good order."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._signal_all, signal.SIGHUP)
        with self._reserve_port() as reserved:
            self.port = reserved.getsockname()[1]
            count = self._config.receiver.processes
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(self._keep(index, stop)) for index in range(count)]
                await stop.wait()
                self._signal_all(signal.SIGTERM)
                patience = self._config.receiver.shutdown_timeout + KILL_MARGIN
                _, late = await asyncio.wait(keepers, timeout=patience)
                if late:
                    log.error("receiver.killed", count=len(late))
                    self._signal_all(signal.SIGKILL)

    async def _keep(self, index: int, stop: asyncio.Event) -> None:
        while not stop.is_set():
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "receiver",
                stdin=asyncio.subprocess.PIPE,
                env=self._environment(index),
            )
            self._running[index] = process
            if stop.is_set():  # it was set while the process was being made
                process.terminate()
            status = await process.wait()
            del self._running[index]
            if not stop.is_set():
                log.error("receiver.ended", status=status, worker=index)
                await self._clock.sleep(RESTART_DELAY)

    def _environment(self, index: int) -> dict[str, str]:
        ops = self._config.ops.port
        return {
            **os.environ,
            CHILD_VARIABLE: str(index),
            "CORREIO_RECEIVER__PROCESSES": "1",
            "CORREIO_RECEIVER__PORT": str(self.port),
            "CORREIO_OPS__PORT": str(ops and ops + 1 + index),
        }

    def _reserve_port(self) -> socket.socket:
        """Bind the port without listening, so that it stays ours while processes come and go."""
        receiver = self._config.receiver
        family, kind, proto, _, address = socket.getaddrinfo(
            receiver.host, receiver.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        reserved = socket.socket(family, kind, proto)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
        return reserved

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._running.values():
            if process.returncode is None:
                process.send_signal(number)

    def _check(self) -> str | None:
        missing = self._config.receiver.processes - len(self._running)
        return f"{missing} of {self._config.receiver.processes} are down" if missing else None


def is_child() -> bool:
    """Whether a supervisor started this process."""
    return CHILD_VARIABLE in os.environ


def on_orphaned(stop: Callable[[], None]) -> None:
    """Call `stop` when the supervisor ends, however it ends.

    It holds the other end of our standard input and writes nothing into it.
    """
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        loop.remove_reader(descriptor)
        stop()

    loop.add_reader(descriptor, readable)
