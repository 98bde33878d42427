"""One receiver process: its parts, put together, started and stopped in order."""

import asyncio
from collections.abc import Mapping

from prometheus_client import REGISTRY, CollectorRegistry

from receiver.admission import Admission
from receiver.app import App
from receiver.batch import Batch
from receiver.circuit import Circuit
from receiver.intake import PUBLISH_SHARE, Intake
from receiver.metrics import Metrics
from receiver.outlet import Outlet
from receiver.server import Server
from receiver.sources import read_networks, read_sources
from shared.broker import topology
from shared.broker.publisher import ConfirmingPublisher
from shared.clock import Clock, SystemClock
from shared.config import Config
from shared.errors import SpoolFullError
from shared.logs import get_logger
from shared.ops import Check
from shared.process import run_until

log = get_logger(__name__)


class NoSpool:
    """Holds nothing."""

    async def append(self, _batch: Batch) -> None:
        """Refuse."""
        raise SpoolFullError("there is no spool")


class Receiver:
    """Takes batches over HTTP and makes them durable."""

    def __init__(
        self, config: Config, *, clock: Clock | None = None, registry: CollectorRegistry = REGISTRY
    ) -> None:
        clock = clock or SystemClock()
        receiver = config.receiver
        self._config = receiver
        self._metrics = Metrics(registry)
        self._sources = read_sources(config.source)
        self._publisher = ConfirmingPublisher(config.broker, name="receiver", queue=topology.EVENTS)
        self._circuit = Circuit(
            failures=receiver.circuit_failures, interval=receiver.circuit_probe_interval
        )
        self._outlet = Outlet(
            publisher=self._publisher,
            circuit=self._circuit,
            clock=clock,
            timeout=receiver.publish_timeout * PUBLISH_SHARE,
            metrics=self._metrics,
        )
        intake = Intake(outlet=self._outlet, spool=NoSpool(), metrics=self._metrics)
        admission = Admission(
            config=receiver,
            sources=lambda: self._sources,
            proxies=read_networks(receiver.trusted_proxies, field="receiver.trusted_proxies"),
            clock=clock,
        )
        self._app = App(
            config=receiver,
            admission=admission,
            intake=intake,
            metrics=self._metrics,
            clock=clock,
        )
        self.server = Server(self._app.handle, config=receiver, metrics=self._metrics)

    @property
    def checks(self) -> Mapping[str, Check]:
        """Ready while it listens and a batch can be made durable somewhere."""
        return {
            "listening": lambda: None if self.server.listening else "not listening",
            "durable": lambda: None if self._publisher.connected else "the broker is not connected",
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then finish what is in hand."""
        publishing = asyncio.create_task(self._publisher.run())
        try:
            await self.server.start()
            log.info("receiver.listening", host=self._config.host, port=self.server.port)
            await run_until(stop, asyncio.shield(publishing))
            await self.server.stop(grace=self._config.shutdown_timeout)
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)


def build(config: Config) -> Receiver:
    """The service for `shared.process.main`.

    Raises:
        ConfigError: a network cannot be read.
    """
    return Receiver(config)
