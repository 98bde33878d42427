"""What the callbacks worker measures. No label ever carries the id of a delivery."""

from functools import lru_cache
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

REMEMBERED: Final = 10_000
"""Series that are found without a look at the registry."""

ATTEMPTS = Counter(
    "correio_callbacks_attempts_total",
    "Attempts by what came of them.",
    labelnames=("endpoint", "type", "outcome"),
)
ENDED = Counter(
    "correio_callbacks_deliveries_total",
    "Deliveries by the state that an attempt led them to.",
    labelnames=("endpoint", "state"),
)
ATTEMPT_SECONDS = Histogram(
    "correio_callbacks_attempt_seconds",
    "Time of one attempt.",
    labelnames=("endpoint",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30),
)
DELIVERY_SECONDS = Histogram(
    "correio_callbacks_delivery_seconds",
    "Time from the change of state to the success of its callback.",
    labelnames=("endpoint",),
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 36000),
)
LATE_SECONDS = Histogram(
    "correio_callbacks_late_seconds",
    "Time from when an attempt was due to its start.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 60, 600),
)
IN_FLIGHT = Gauge("correio_callbacks_in_flight", "Attempts under way.", labelnames=("endpoint",))
WAITING = Gauge(
    "correio_callbacks_waiting", "Deliveries waiting for a free slot.", labelnames=("endpoint",)
)
BREAKER_OPEN = Gauge(
    "correio_callbacks_breaker_open", "1 while the breaker is not closed.", labelnames=("endpoint",)
)
PARKED = Counter(
    "correio_callbacks_parked_total",
    "Deliveries put back into the store unattempted, by reason.",
    labelnames=("endpoint", "reason"),
)
MESSAGES = Counter(
    "correio_callbacks_messages_total",
    "Messages taken, by what they led to.",
    labelnames=("result",),
)
RELAYED = Counter(
    "correio_callbacks_relayed_total", "Messages published, by way.", labelnames=("way",)
)
RELAY_FAILURES = Counter(
    "correio_callbacks_relay_failures_total", "Groups of messages that the broker did not confirm."
)
HELD = Counter("correio_callbacks_held_total", "Deliveries held.", labelnames=("endpoint",))
RELEASED = Counter(
    "correio_callbacks_released_total", "Held deliveries released.", labelnames=("endpoint",)
)
PAUSED = Gauge("correio_callbacks_paused", "1 while work is paused for the store.")


@lru_cache(maxsize=REMEMBERED)
def attempts(endpoint: str, kind: str, outcome: str) -> Counter:
    """The series of `ATTEMPTS`."""
    return ATTEMPTS.labels(endpoint, kind, outcome)


@lru_cache(maxsize=REMEMBERED)
def ended(endpoint: str, state: str) -> Counter:
    """The series of `ENDED`."""
    return ENDED.labels(endpoint, state)


@lru_cache(maxsize=REMEMBERED)
def attempt_seconds(endpoint: str) -> Histogram:
    """The series of `ATTEMPT_SECONDS`."""
    return ATTEMPT_SECONDS.labels(endpoint)


@lru_cache(maxsize=REMEMBERED)
def delivery_seconds(endpoint: str) -> Histogram:
    """The series of `DELIVERY_SECONDS`."""
    return DELIVERY_SECONDS.labels(endpoint)
