"""What every process does around its own work: configuration, logs, signals, health."""

import asyncio
import errno
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import uvloop
from prometheus_client import REGISTRY

from shared.config import Config, load_config
from shared.errors import ConfigError
from shared.logs import configure_logs, get_logger
from shared.ops import Check, OpsServer
from shared.tracing import close_tracing, configure_tracing

log = get_logger(__name__)

EXIT_FAULT = 1
EXIT_USAGE = 2

TAKEN = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})
"""What the system says of an address that cannot be listened on."""

YOUNG = 100_000
"""Objects made, less those that went, between two looks for cycles among the youngest."""


TOLD_AGAIN = 3.0
"""Seconds after which what was cancelled and has not ended is cancelled again."""


class Service(Protocol):
    """A process's own work."""

    @property
    def checks(self) -> Mapping[str, Check]:
        """What ``/readyz`` asks."""
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what is in hand and return."""
        ...


def main(role: str, build: Callable[[Config], Service]) -> int:
    """Run a service until SIGTERM or SIGINT; return the exit status.

    2 means that the configuration cannot be used, 1 that an address to listen on is taken or not
    this machine's; the reason goes to standard error.
    """
    try:
        config = load_config()
        configure_logs(config.log, role=role)
        configure_tracing(config.telemetry, role=role)
        return uvloop.run(_run(config, build))
    except ConfigError as error:
        print(f"correio {role}: {error}", file=sys.stderr)  # noqa: T201 - logs are not set up yet
        return EXIT_USAGE
    except OSError as error:
        if error.errno not in TAKEN:
            raise
        told = f"{error}; end what listens there, or configure another host or port"
        print(f"correio {role}: {told}", file=sys.stderr)  # noqa: T201 - as above
        return EXIT_FAULT
    finally:
        close_tracing()


async def _run(config: Config, build: Callable[[Config], Service]) -> int:
    service = build(config)
    _collect_seldom()
    ops = OpsServer(config.ops, checks=service.checks, registry=REGISTRY)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stopping, stop, number)
    await ops.start()
    log.info("process.started", pid=os.getpid(), port=ops.port)
    try:
        await service.run(stop)
    finally:
        await ops.stop()
        log.info("process.stopped", pid=os.getpid())
    return 0


def _collect_seldom() -> None:
    """Look for cycles among what lives on a tenth as often as Python would.

    The work makes tens of thousands of objects a second that live for some milliseconds and are
    in no cycle; looking through them took a tenth of the time. What was loaded at the start is
    never looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])


def _stopping(stop: asyncio.Event, number: signal.Signals) -> None:
    log.info("process.stopping", signal=number.name)
    stop.set()


async def run_until(stop: asyncio.Event, *tasks: Awaitable[object]) -> None:
    """Run background tasks until `stop` is set or one of them fails, which is raised."""
    running = [asyncio.ensure_future(task) for task in tasks]
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([stopping, *running], return_when=asyncio.FIRST_COMPLETED)
        for task in running:
            if task.done():
                task.result()
    finally:
        await end(stopping, *running)


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and return once all have ended, however they did.

    A library may swallow a cancellation that arrives together with an outcome. It is told again
    then: a process that has been told to end may not depend on every line of every library.
    """
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=TOLD_AGAIN)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # taken note of
