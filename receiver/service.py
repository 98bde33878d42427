"""One receiver process: its parts put together, started and stopped in order."""

import asyncio
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from prometheus_client import REGISTRY, CollectorRegistry

from receiver.admission import Admission
from receiver.app import App
from receiver.circuit import Circuit
from receiver.drain import Drain
from receiver.intake import PUBLISH_SHARE, Intake
from receiver.metrics import Metrics
from receiver.outlet import Outlet
from receiver.server import Server
from receiver.sources import read_sources
from receiver.spool import Spool
from receiver.supervisor import Supervisor, is_child, on_orphaned
from shared.broker import topology
from shared.broker.publisher import ConfirmingPublisher, Publisher
from shared.clock import Clock, SystemClock
from shared.config import Config, load_config
from shared.errors import ConfigError
from shared.logs import get_logger
from shared.networks import read_networks
from shared.ops import Check
from shared.process import run_until
from shared.sealing import KeyRing, Vault
from shared.tracing import CLOSE_TIMEOUT

log = get_logger(__name__)

PROXIES_FIELD: Final = "receiver.trusted_proxies"
CLOSING: Final = 1.0
"""Seconds of the time for stopping that are left for closing spool and connection."""


class LinkedPublisher(Publisher, Protocol):
    """A publisher that looks after its own connection, and at the queue behind it.

    Attributes:
        waiting: messages in the queue, as seen a moment ago.
    """

    waiting: int

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        ...


class Receiver:
    """Takes batches over HTTP and makes them durable."""

    def __init__(
        self,
        config: Config,
        *,
        publisher: LinkedPublisher | None = None,
        clock: Clock | None = None,
        registry: CollectorRegistry = REGISTRY,
        shared_port: bool = False,
        reread: Callable[[], Config] | None = None,
    ) -> None:
        """With `shared_port`, other receiver processes listen on the same port.

        `reread` loads the configuration anew on SIGHUP; of it, the sources are exchanged.

        Raises:
            ConfigError: a network cannot be read.
        """
        clock = clock or SystemClock()
        receiver = config.receiver
        self._config = receiver
        self._clock = clock
        self._shared_port = shared_port
        self._reread = reread
        self._sources = read_sources(config.source)
        self.metrics = Metrics(registry)
        self.metrics.expect(self._sources)
        self._publisher = publisher or ConfirmingPublisher(
            config.broker, name="receiver", queue=topology.EVENTS, looks=True
        )
        self.spool = Spool(
            sealer=Vault(KeyRing.read(config.sealing.keys.reveal())),
            folder=Path(receiver.spool),
            max_bytes=receiver.spool_max_bytes,
            min_free_bytes=receiver.spool_min_free_bytes,
            clock=clock,
            metrics=self.metrics,
        )
        self.outlet = self._build_outlet()
        self._drain = Drain(
            spool=self.spool,
            outlet=self.outlet,
            clock=clock,
            rate=receiver.spool_drain_rate,
            interval=receiver.circuit_probe_interval,
            metrics=self.metrics,
        )
        telemetry = config.telemetry
        self._closing = CLOSING + (CLOSE_TIMEOUT if telemetry.otlp_endpoint else 0.0)
        self.app = self._build_app(telemetry.sample_ratio if telemetry.otlp_endpoint else 0.0)
        self.server = Server(self.app.handle, config=receiver, metrics=self.metrics)
        self._observe()

    def _build_outlet(self) -> Outlet:
        return Outlet(
            publisher=self._publisher,
            circuit=Circuit(
                failures=self._config.circuit_failures,
                interval=self._config.circuit_probe_interval,
            ),
            clock=self._clock,
            timeout=self._config.publish_timeout * PUBLISH_SHARE,
            has_room=self._has_room,
            metrics=self.metrics,
        )

    def _has_room(self) -> bool:
        """Whether the queue is short enough to publish to."""
        return self._publisher.waiting < self._config.queue_max_events

    def _build_app(self, sample_ratio: float) -> App:
        return App(
            config=self._config,
            admission=Admission(
                config=self._config,
                sources=lambda: self._sources,
                proxies=read_networks(self._config.trusted_proxies, field=PROXIES_FIELD),
                clock=self._clock,
                sample_ratio=sample_ratio,
            ),
            intake=Intake(outlet=self.outlet, spool=self.spool, metrics=self.metrics),
            metrics=self.metrics,
            clock=self._clock,
        )

    @property
    def checks(self) -> Mapping[str, Check]:
        """Ready while it listens and a batch can be made durable in one of the two places."""
        return {"listening": self._check_listening, "broker or spool": self._check_durable}

    @property
    def port(self) -> int:
        """Where it listens, once it does."""
        return self.server.port

    def reload(self) -> None:
        """Use the sources and secrets that are configured now, from the next request on.

        What cannot be used is logged, and the ones in use stay.
        """
        if self._reread is None:
            return
        try:
            self._sources = read_sources(self._reread().source)
        except ConfigError as error:
            log.error("sources.not_reloaded", error=str(error))  # noqa: TRY400 - it says it all
        else:
            self.metrics.expect(self._sources)
            log.info("sources.reloaded", count=len(self._sources))

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then finish what is in hand and close the spool.

        Raises:
            OSError: the port cannot be bound.
        """
        if self._reread is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)
        await self.spool.open()
        background = asyncio.create_task(self._work())
        try:
            await self.server.start(shared_port=self._shared_port)
            log.info("receiver.listening", host=self._config.host, port=self.server.port)
            await run_until(stop, asyncio.shield(background))
            await self.server.stop(grace=max(0.0, self._config.shutdown_timeout - self._closing))
        finally:
            background.cancel()
            await asyncio.wait([background], timeout=CLOSING)  # never wait for a broker
            await self.spool.close()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publisher.run())
            group.create_task(self._drain.run())

    def _check_listening(self) -> str | None:
        return None if self.server.listening else "not listening"

    def _check_durable(self) -> str | None:
        if (broker := self._broker_fault()) and (spool := self.spool.fault):
            return f"{broker}, and {spool}"
        return None

    def _broker_fault(self) -> str | None:
        """Why the broker would not take a batch.

        An open circuit counts only while the drain tries the broker again and again. When it has
        nothing to try it with, only a batch can find out that the broker is back.
        """
        if not self.outlet.connected:
            return "the broker is not connected"
        if not self.outlet.takes:
            return "the queue is too long"
        if self.outlet.circuit_open and self.spool.gives:
            return "the broker does not confirm"
        return None

    def _observe(self) -> None:
        """Let the metrics ask for what changes by itself."""
        metrics, spool = self.metrics, self.spool

        def oldest() -> float:
            arrived = spool.totals.oldest
            return 0.0 if arrived is None else (self._clock.now() - arrived) / 1000

        metrics.in_flight.set_function(lambda: self.app.in_flight)
        metrics.circuit_open.set_function(lambda: self.outlet.circuit_open)
        metrics.queue_events.set_function(lambda: self._publisher.waiting)
        metrics.queue_full.set_function(lambda: not self._has_room())
        metrics.broker_connected.set_function(lambda: self.outlet.connected)
        metrics.spool_bytes.set_function(lambda: spool.totals.bytes)
        metrics.spool_limit_bytes.set(self._config.spool_max_bytes)
        metrics.spool_events.set_function(lambda: spool.totals.events)
        metrics.spool_oldest_seconds.set_function(oldest)
        metrics.spool_writable.set_function(lambda: spool.fault is None)


class SupervisedReceiver(Receiver):
    """A receiver that ends with the supervisor that started it."""

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set or the supervisor has gone."""
        on_orphaned(stop.set)
        await super().run(stop)


def build(config: Config) -> Receiver | Supervisor:
    """What ``python -m receiver`` runs.

    Raises:
        ConfigError: a network cannot be read.
    """
    if is_child():
        return SupervisedReceiver(config, shared_port=True, reread=load_config)
    if config.receiver.processes > 1:
        read_sources(config.source)  # better refused here than by each process
        read_networks(config.receiver.trusted_proxies, field=PROXIES_FIELD)
        return Supervisor(config)
    return Receiver(config, reread=load_config)
