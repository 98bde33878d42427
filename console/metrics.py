"""What the console measures of queues: what a worker cannot tell, least of all a stopped one."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import Gauge

from shared.broker.watch import CONSUMERS, READY

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

_MEMBERS = {
    "ready": READY,
    "consumers": CONSUMERS,
    "unacknowledged": UNACKNOWLEDGED,
    "oldestAgeSeconds": OLDEST,
}


def show(status: Mapping[str, Any]) -> None:
    """Take over the figures of a status; one that could not be read is absent, never 0."""
    for member, gauge in _MEMBERS.items():
        gauge.clear()
        for queue in status["queues"]:
            if queue[member] is not None:
                gauge.labels(queue["name"]).set(queue[member])
