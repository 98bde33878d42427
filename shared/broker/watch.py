"""Queue figures for the dashboards: what waits in the broker, and what this process has in hand.

A figure that cannot be read is absent, so that an alert on its absence can fire; it is never 0.
A queue that turns out to be missing is put back where that is permitted: nobody might publish to
it for hours and find out.
"""

import asyncio
from collections.abc import Mapping, Sequence

from prometheus_client import Gauge

from shared.broker import topology
from shared.broker.consumer import BatchConsumer
from shared.broker.depth import QueueDepth, depths
from shared.clock import Clock
from shared.config import BrokerConfig
from shared.errors import CorreioError, TopologyError
from shared.logs import get_logger

log = get_logger(__name__)

INTERVAL = 5.0
"""Seconds between two looks."""

READY = Gauge("correio_queue_messages_ready", "Messages that wait for a consumer.", ("queue",))
CONSUMERS = Gauge("correio_queue_consumers", "Consumers that stand ready.", ("queue",))
IN_HAND = Gauge(
    "correio_consumer_messages_unacknowledged",
    "Messages that this process holds unacknowledged.",
    ("queue",),
)
OLDEST = Gauge(
    "correio_consumer_oldest_message_age_seconds",
    "Age of the oldest of them, since the receiver had it; 0 without any.",
    ("queue",),
)


class QueueWatch:
    """Keeps the figures of all queues and of this process's own consumers up to date."""

    def __init__(
        self, config: BrokerConfig, consumers: Sequence[BatchConsumer], *, clock: Clock
    ) -> None:
        self._config = config
        self._consumers = consumers
        self._clock = clock

    async def run(self) -> None:
        """Look every `INTERVAL` seconds until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(INTERVAL)

    async def look(self) -> None:
        """Read every figure once."""
        now = self._clock.now()
        for consumer in self._consumers:
            IN_HAND.labels(consumer.queue).set(consumer.unacknowledged)
            since = consumer.oldest(now)
            OLDEST.labels(consumer.queue).set(0 if since is None else max(0, now - since) / 1000)
        try:
            found = await depths(self._config.url, connect_timeout=self._config.connect_timeout)
        except CorreioError as error:
            log.warning("queues.unreadable", error=str(error))
            READY.clear()
            CONSUMERS.clear()
            if isinstance(error, TopologyError) and self._config.declare_missing:
                await self._mend()
        else:
            _show({one.name: one for one in found})

    async def _mend(self) -> None:
        await asyncio.sleep(topology.MEND_DELAY)
        try:
            await topology.declare(self._config.url)
        except CorreioError as error:
            log.warning("topology.not_mended", error=str(error))
        else:
            log.warning("topology.mended")


def _show(found: Mapping[str, QueueDepth]) -> None:
    for name, depth in found.items():
        READY.labels(name).set(depth.ready)
        CONSUMERS.labels(name).set(depth.consumers)
