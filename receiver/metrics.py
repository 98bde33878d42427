"""What the receiver counts. No label ever carries an id, an address or anything of an event."""

from collections.abc import Iterable
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from receiver.problems import Reason

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0)


class Route(StrEnum):
    """Where an accepted batch rests when it is answered."""

    BROKER = "broker"
    SPOOL = "spool"


class Metrics:
    """All figures of one receiver process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, registry=registry)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(name, text, buckets=_SECONDS, registry=registry)

        prefix = "correio_receiver"
        self._batches = counter(
            f"{prefix}_batches", "Batches accepted, by where they rest.", "source", "route"
        )
        self._events = counter(
            f"{prefix}_events", "Events accepted, by where they rest.", "source", "route"
        )
        self._refused = counter(
            f"{prefix}_refused", "Requests refused, by reason.", "source", "reason"
        )
        self._known: dict[tuple[str, Route], tuple[Counter, Counter]] = {}
        self.answer_seconds = seconds(
            f"{prefix}_answer_seconds", "From the head of a batch to its answer."
        )
        self.confirm_seconds = seconds(
            f"{prefix}_confirm_seconds", "From the publishing of a batch to the broker's confirm."
        )
        self.publish_failures = counter(
            f"{prefix}_publish_failures", "Batches that the broker did not confirm in time."
        )
        self.connections = gauge(f"{prefix}_connections", "Open connections.")
        self.in_flight = gauge(f"{prefix}_in_flight", "Batches in hand.")
        self.circuit_open = gauge(f"{prefix}_circuit_open", "1 while the broker is skipped.")
        self.queue_events = gauge(
            f"{prefix}_queue_events", "Events that wait in the broker, as seen a second ago."
        )
        self.queue_full = gauge(
            f"{prefix}_queue_full", "1 while so many wait that batches go to the spool."
        )
        self.broker_connected = gauge(f"{prefix}_broker_connected", "1 while connected.")

        prefix = "correio_spool"
        self.spool_bytes = gauge(f"{prefix}_bytes", "Bytes held in the spool.")
        self.spool_limit_bytes = gauge(f"{prefix}_limit_bytes", "Bytes that the spool may hold.")
        self.spool_events = gauge(f"{prefix}_events", "Events held in the spool.")
        self.spool_oldest_seconds = gauge(
            f"{prefix}_oldest_seconds", "Age of the oldest batch in the spool."
        )
        self.spool_writable = gauge(f"{prefix}_writable", "1 while the spool takes batches.")
        self.spool_drained = counter(f"{prefix}_drained_events", "Events moved to the broker.")
        self.spool_full = counter(
            f"{prefix}_full", "Batches refused: the spool could not hold them."
        )
        self.spool_damaged = counter(
            f"{prefix}_damaged", "Spool files put aside because they were damaged."
        )
        self.spool_salvaged = counter(
            f"{prefix}_salvaged_batches", "Batches saved from damaged spool files."
        )
        self.spool_lost = counter(
            f"{prefix}_unreadable_batches", "Batches in damaged spool files that cannot be read."
        )

    def expect(self, sources: Iterable[str]) -> None:
        """Begin with 0 for these sources and for requests of none of them, whose name is empty."""
        for source in sources:
            for route in Route:
                self._of(source, route)
        for source in ("", *sources):
            for reason in Reason:
                self._refused.labels(source, reason.value)

    def accepted(self, source: str, route: Route, events: int) -> None:
        """A batch was accepted."""
        batches, all_events = self._of(source, route)
        batches.inc()
        all_events.inc(events)

    def refused(self, reason: Reason, *, source: str = "") -> None:
        """A request was refused; `source` is a configured name, never what a stranger wrote."""
        self._refused.labels(source, reason.value).inc()

    def _of(self, source: str, route: Route) -> tuple[Counter, Counter]:
        found = self._known.get((source, route))
        if found is None:
            labels = (source, route.value)
            found = (self._batches.labels(*labels), self._events.labels(*labels))
            self._known[source, route] = found
        return found
