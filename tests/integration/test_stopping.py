"""A process that is told to end does, whatever it is at: connecting, asking, taking, committing."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from console.service import ConsoleService
from shared.broker import topology
from shared.clock import SystemClock
from shared.config import BrokerConfig, Config, ConsoleConfig, Secret, StoreConfig
from shared.process import Service, end
from shared.store.migrate import migrate
from shared.store.open import open_store
from tests.support.callbacks import sqlite_in
from worker.callbacks.service import CallbacksService
from worker.events.service import EventsService

WITHIN = 10.0
"""Seconds: less than any supervisor gives a process before it kills it."""


def events(config: Config) -> Service:
    return EventsService(config, store=open_store(config.store), clock=SystemClock())


def callbacks(config: Config) -> Service:
    return CallbacksService(config, store=open_store(config.store), clock=SystemClock())


def console(config: Config) -> Service:
    return ConsoleService(config, store=open_store(config.store), clock=SystemClock())


@pytest.mark.parametrize("build", [events, callbacks, console])
@pytest.mark.parametrize("times", [40, pytest.param(1_000, marks=pytest.mark.deep)])
@pytest.mark.timeout(600)
async def test_it_stops_whenever_it_is_told_to(
    build: Callable[[Config], Service], times: int, broker_url: str, tmp_path: Path
) -> None:
    url = Secret(sqlite_in(tmp_path))
    await migrate(url)
    await topology.declare(broker_url)
    config = Config(
        broker=BrokerConfig(url=Secret(broker_url)),
        store=StoreConfig(url=url),
        console=ConsoleConfig(port=0, sample_interval=0.1),
    )
    for number in range(times):
        stop = asyncio.Event()
        running = asyncio.create_task(build(config).run(stop))
        await asyncio.sleep(number / times * 0.15)
        stop.set()
        _, late = await asyncio.wait([running], timeout=WITHIN)
        assert not late, number
        await running
        await end(*asyncio.all_tasks() - {asyncio.current_task()})  # of half-made connections


async def test_what_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def work() -> None:
        nonlocal swallowed
        while not swallowed:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    async with asyncio.timeout(WITHIN):
        await end(task)
    assert (swallowed, task.cancelled()) == (1, True)
