"""The console as a process: store, sampler and web page put together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from aiohttp import web
from rich.console import Console
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from console.app import make_app
from console.context import Context
from console.login import Gate
from console.sampler import Sampler
from shared.clock import Clock, SystemClock
from shared.config import Config
from shared.errors import SchemaError, StoreDamagedError, StoreUnavailableError
from shared.logs import get_logger
from shared.ops import Check
from shared.process import run_until
from shared.store.open import open_store
from shared.store.port import Store

log = get_logger(__name__)

NOT_YET = (StoreUnavailableError, StoreDamagedError, SchemaError)


def build(config: Config) -> "ConsoleService":
    """The service that ``python -m console`` runs.

    Raises:
        ConfigError: the page would be open to others without a login.
    """
    return ConsoleService(
        config, store=open_store(config.store, config.sealing), clock=SystemClock()
    )


class SharedContext(Context):
    """A context whose store stays open, for one operator of the page."""

    def __init__(self, service: "ConsoleService", actor: str) -> None:
        super().__init__()
        self.clock = service.clock
        self.screen = Console(quiet=True)
        self.__dict__["config"] = service.config
        self._service = service
        self._actor = actor

    @property
    def actor(self) -> str:
        """Who acts, for the record."""
        return self._actor

    @contextlib.asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        """The store that the process holds open."""
        if self._service.store_fault is not None:
            raise StoreUnavailableError(self._service.store_fault)
        yield self._service.store


class ConsoleService:
    """Serves the page and samples the figures it shows."""

    def __init__(self, config: Config, *, store: Store, clock: Clock) -> None:
        self.config = config
        self.store = store
        self.clock = clock
        self.store_fault: str | None = "not connected yet"
        self.gate = Gate(config, clock=clock)
        self.sampler = Sampler(self.context("sampler"), interval=config.console.sample_interval)
        self.port = config.console.port
        self._serving = False

    @property
    def checks(self) -> Mapping[str, Check]:
        """Ready while the page is served; it tells by itself what else is missing."""
        return {"page": lambda: None if self._serving else "not served yet"}

    def context(self, name: str) -> Context:
        """A context for one operator."""
        return SharedContext(self, f"{name}@console")

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        app = make_app(self.config, gate=self.gate, sampler=self.sampler, context=self.context)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.config.console.host, self.config.console.port).start()
            self.port = runner.addresses[0][1]
            self._serving = True
            log.info("console.serving", host=self.config.console.host, port=self.port)
            await run_until(stop, self._open_and_sample())
        finally:
            await runner.cleanup()
            await self.store.close()

    async def _open_and_sample(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._open_store())
            group.create_task(self.sampler.run())

    async def _open_store(self) -> None:
        """Open the store, waiting for it for as long as it takes."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(NOT_YET),
            wait=wait_random_exponential(multiplier=0.1, max=5.0),
            sleep=self.clock.sleep,
        ):
            with attempt:
                try:
                    await self.store.start()
                except NOT_YET as error:
                    self.store_fault = str(error)
                    log.warning("store.unavailable", error=str(error))
                    raise
        self.store_fault = None
