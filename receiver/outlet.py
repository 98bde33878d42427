"""The way to the broker: a publish with a deadline, behind a circuit."""

import asyncio
from collections.abc import Callable, Sequence

from receiver.batch import Batch, event_id
from receiver.circuit import Circuit
from receiver.deadlines import Deadlines
from receiver.metrics import Metrics
from shared.broker import headers, topology
from shared.broker.publisher import Outgoing, Publisher
from shared.clock import Clock
from shared.errors import CorreioError
from shared.logs import get_logger

log = get_logger(__name__)


def messages_of(batch: Batch) -> list[Outgoing]:
    """One message per event: the event's own bytes, and headers that say where it came from."""
    return [
        Outgoing(
            body=event,
            exchange=topology.EVENTS,
            routing_key=topology.EVENTS,
            headers={
                headers.SOURCE: batch.source,
                headers.RECEIVED_AT: batch.received_at,
                headers.BATCH_ID: batch.id,
                headers.EVENT_ID: event_id(event),
                headers.TRACEPARENT: batch.traceparent,
            },
        )
        for event in batch.events
    ]


class Outlet:
    """Publishes and says whether the broker took responsibility; it raises nothing.

    After a no, some of the messages may have arrived all the same. They are sent again later,
    and the events worker drops what comes twice.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        circuit: Circuit,
        clock: Clock,
        timeout: float,
        metrics: Metrics,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """`timeout` in seconds bounds each publish; without room nothing new is tried."""
        self._publisher = publisher
        self._circuit = circuit
        self._clock = clock
        self._deadlines = Deadlines(timeout)
        self._metrics = metrics
        self._has_room = has_room

    @property
    def connected(self) -> bool:
        """Whether a publish has a chance."""
        return self._publisher.connected

    @property
    def takes(self) -> bool:
        """Whether the broker is connected and its queue short enough."""
        return self._publisher.connected and self._has_room()

    @property
    def circuit_open(self) -> bool:
        """Whether the broker is being skipped."""
        return self._circuit.open

    def allows(self) -> bool:
        """Whether to try the broker now; while the circuit is open a yes is spent by asking."""
        return self.takes and self._circuit.allows(self._clock.monotonic())

    async def send(self, messages: Sequence[Outgoing]) -> bool:
        """Publish; True once every message is confirmed as routed."""
        began = self._clock.monotonic()
        fault = await self._try(messages)
        was_open = self._circuit.open
        if fault is None:
            self._circuit.succeeded()
            self._metrics.confirm_seconds.observe(self._clock.monotonic() - began)
            if was_open:
                log.info("circuit.closed")
            return True
        self._circuit.failed(self._clock.monotonic())
        self._metrics.publish_failures.inc()
        if self._circuit.open and not was_open:
            log.warning("circuit.opened", error_type=type(fault).__name__)
        return False

    async def _try(self, messages: Sequence[Outgoing]) -> BaseException | None:
        try:
            with self._deadlines.limit():
                await self._publisher.publish(messages)
        except (CorreioError, TimeoutError) as fault:
            return fault
        except asyncio.CancelledError as fault:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return fault  # a future of the lost connection was cancelled, not we
        except Exception as fault:  # no fault of a library may cost a batch
            log.exception("publish.failed")
            return fault
        return None
