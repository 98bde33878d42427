"""A callbacks worker inside the test's own process, on a real broker and a real store."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from msgspec import structs

from shared.clock import SystemClock
from shared.config import (
    BrokerConfig,
    CallbacksConfig,
    Config,
    EndpointConfig,
    Secret,
    StoreConfig,
)
from shared.store.migrate import migrate
from shared.store.open import open_store
from shared.store.port import Store
from tests.support.endpoints import SECRET
from worker.callbacks.guard import Lookup, system_lookup
from worker.callbacks.service import CallbacksService

STOP_LIMIT = 10.0
"""Seconds within which a worker must have stopped."""

FAST = CallbacksConfig(
    schedule=(0.2, 1.5, 0.2),
    attempt_timeout=2.0,
    connect_timeout=1.0,
    lease_margin=1.0,
    relay_interval=0.02,
    wake_grace=3.0,
    quick_retries=0,
)


def endpoint_config(
    name: str, url: str, *, secrets: tuple[str, ...] = (SECRET,), **more: Any
) -> EndpointConfig:
    """An endpoint on this machine."""
    more.setdefault("allow_private_network", True)
    return EndpointConfig(id=name, url=url, secrets=tuple(Secret(one) for one in secrets), **more)


class Bench:
    """Configuration, and a store for the test beside that of the worker."""

    def __init__(self, config: Config, store: Store, url: str) -> None:
        self.config = config
        self.store = store
        self.url = url
        self.clock = SystemClock()

    @property
    def now(self) -> int:
        return self.clock.now()

    def endpoints(self, *endpoints: EndpointConfig, **callbacks: Any) -> None:
        """Configure the worker that starts next."""
        self.config = structs.replace(
            self.config,
            endpoint=endpoints,
            callbacks=structs.replace(self.config.callbacks, **callbacks),
        )

    @contextlib.asynccontextmanager
    async def worker(self, *, lookup: Lookup = system_lookup) -> AsyncIterator[CallbacksService]:
        """A worker that runs until the block ends, and then stops gracefully."""
        service = CallbacksService(
            self.config, store=open_store(self.config.store), clock=self.clock, lookup=lookup
        )
        stop = asyncio.Event()
        task = asyncio.create_task(service.run(stop))
        try:
            yield service
        finally:
            stop.set()
            async with asyncio.timeout(STOP_LIMIT):
                await task


def sqlite_in(folder: Path) -> str:
    """URL of a store in this folder, which may not exist yet."""
    return f"sqlite:///{folder / 'correio.db'}"


@contextlib.asynccontextmanager
async def bench(url: str, broker_url: str) -> AsyncIterator[Bench]:
    """The store at `url`, migrated, and an empty broker."""
    await migrate(Secret(url))
    config = Config(
        broker=BrokerConfig(url=Secret(broker_url), reconnect_max=0.3),
        store=StoreConfig(url=Secret(url)),
        callbacks=FAST,
    )
    store = open_store(config.store)
    await store.start()
    try:
        yield Bench(config, store, url)
    finally:
        await store.close()
