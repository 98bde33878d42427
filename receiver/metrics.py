"""What the receiver counts. No label ever carries an id, an address or anything of an event."""

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
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, registry=registry)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(name, text, buckets=_SECONDS, registry=registry)

        prefix = "correio_receiver"
        batches = counter(f"{prefix}_batches", "Batches accepted, by where they rest.", "route")
        events = counter(f"{prefix}_events", "Events accepted, by where they rest.", "route")
        refused = counter(f"{prefix}_refused", "Requests refused, by reason.", "reason")
        self._batches = {route: batches.labels(route.value) for route in Route}
        self._events = {route: events.labels(route.value) for route in Route}
        self._refused = {reason: refused.labels(reason.value) for reason in Reason}
        self.answer_seconds = seconds(
            f"{prefix}_answer_seconds", "From the head of a batch to its answer."
        )
        self.publish_failures = counter(
            f"{prefix}_publish_failures", "Batches that the broker did not confirm in time."
        )
        self.connections = gauge(f"{prefix}_connections", "Open connections.")
        self.in_flight = gauge(f"{prefix}_in_flight", "Batches in hand.")
        self.circuit_open = gauge(f"{prefix}_circuit_open", "1 while the broker is skipped.")
        self.broker_connected = gauge(f"{prefix}_broker_connected", "1 while connected.")

        prefix = "correio_spool"
        self.spool_bytes = gauge(f"{prefix}_bytes", "Bytes held in the spool.")
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

    def accepted(self, route: Route, events: int) -> None:
        """A batch was accepted."""
        self._batches[route].inc()
        self._events[route].inc(events)

    def refused(self, reason: Reason) -> None:
        """A request was refused."""
        self._refused[reason].inc()
