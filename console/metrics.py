"""What the console measures of queues and store: what no worker tells, a stopped one least."""

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import Gauge

from shared.broker.watch import CONSUMERS, READY
from shared.store.rows import DeliveryState

UNACKNOWLEDGED = Gauge(
    "correio_queue_messages_unacknowledged",
    "Messages that consumers hold, as the broker tells it. Absent without `[broker] metrics_url`.",
    ("queue",),
)
OLDEST = Gauge(
    "correio_queue_oldest_message_age_seconds",
    "How long the oldest message that is ready waits; 0 without any.",
    ("queue",),
)

DELIVERIES = Gauge(
    "correio_deliveries",
    "Deliveries in the store, by where they stand.",
    ("endpoint", "state"),
)
QUARANTINED = Gauge(
    "correio_quarantine_open",
    "Quarantine entries that nobody has replayed or discarded, by reason.",
    ("reason",),
)

_MEMBERS = {
    "ready": READY,
    "consumers": CONSUMERS,
    "unacknowledged": UNACKNOWLEDGED,
    "oldestAgeSeconds": OLDEST,
}


def show(status: Mapping[str, Any], endpoints: Sequence[Mapping[str, Any]]) -> None:
    """Take over the figures of a status; one that could not be read is absent, never 0.

    Args:
        status: as `console.look.status_answer` gives it, with its counts.
        endpoints: as `console.endpoints.endpoints_answer` gives them.
    """
    _show_counts(status, endpoints)
    for member, gauge in _MEMBERS.items():
        gauge.clear()
        for queue in status["queues"]:
            if queue[member] is not None:
                gauge.labels(queue["name"]).set(queue[member])


def _show_counts(status: Mapping[str, Any], endpoints: Sequence[Mapping[str, Any]]) -> None:
    DELIVERIES.clear()
    QUARANTINED.clear()
    if status["deliveries"] is not None:
        for one in endpoints:
            for state in DeliveryState:
                DELIVERIES.labels(one["id"], state.value).set(one["deliveries"].get(state.value, 0))
    for reason, count in (status["quarantine"] or {}).items():
        QUARANTINED.labels(reason).set(count)
