"""The Grafana dashboards, from one table: ``python -m deploy.grafana.make_dashboards`` writes them.

A panel is a title, a unit and its queries; what Grafana wants around them is made here, so that
all dashboards look and behave alike.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

FOLDER: Final = Path(__file__).parent / "dashboards"
COLUMNS: Final = 24
WIDTH: Final = 8
HEIGHT: Final = 8


class Panel(Struct, frozen=True):
    """One chart. Each query has a legend, in which ``{{label}}`` stands for a label's value."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    description: str = ""


def _rate(metric: str, *by: str) -> tuple[str, str]:
    legend = " ".join(f"{{{{{label}}}}}" for label in by) or "all"
    return f"sum by ({', '.join(by)}) (rate({metric}[$__rate_interval]))", legend


def _quantiles(metric: str, *by: str) -> list[tuple[str, str]]:
    labels = ", ".join((*by, "le"))
    legend = "".join(f" {{{{{label}}}}}" for label in by)
    return [
        (
            f"histogram_quantile({share}, "
            f"sum by ({labels}) (rate({metric}_bucket[$__rate_interval])))",
            f"p{round(share * 100)}{legend}",
        )
        for share in (0.5, 0.95, 0.99)
    ]


READY = Panel(
    "Messages waiting", "short",
    [("max by (queue) (correio_queue_messages_ready)", "{{queue}}")],
    "Absent while no worker can read it: then CorreioQueuesUnseen or CorreioBrokerDown says so.",
)  # fmt: skip
OLDEST = Panel(
    "Age of the oldest message in hand", "s",
    [("max by (queue) (correio_consumer_oldest_message_age_seconds)", "{{queue}}")],
)  # fmt: skip
WAITING = Panel(
    "Age of the oldest message waiting", "s",
    [("max by (queue) (correio_queue_oldest_message_age_seconds)", "{{queue}}")],
    "Seen by the console, also while nobody consumes the queue.",
)  # fmt: skip
CONSUMERS = Panel("Consumers", "short", [("max by (queue) (correio_queue_consumers)", "{{queue}}")])
ANSWERS = Panel("Answer to a batch", "s", _quantiles("correio_receiver_answer_seconds"))
ACCEPTED = Panel(
    "Events accepted", "ops", [_rate("correio_receiver_events_total", "source", "route")]
)
REFUSED = Panel("Requests refused", "ops",
                [_rate("correio_receiver_refused_total", "source", "reason")])  # fmt: skip
CONFIRMS = Panel("Confirm by the broker", "s", _quantiles("correio_receiver_confirm_seconds"))
STORED = Panel(
    "Deliveries that want somebody", "short",
    [(
        'max by (endpoint, state) (correio_deliveries{state=~"held|exhausted"})',
        "{{endpoint}} {{state}}",
    )],
    "Counted in the store by the console.",
)  # fmt: skip
OPEN = Panel("Quarantine entries open", "short",
             [("max by (reason) (correio_quarantine_open)", "{{reason}}")])  # fmt: skip
LABELS = Panel("Events by label", "ops", [_rate("correio_events_total", "label")])
LAG = Panel("From receipt to effect", "s", _quantiles("correio_events_lag_seconds"))
QUARANTINED = Panel("Into quarantine", "ops", [_rate("correio_events_quarantined_total", "reason")])
ATTEMPTS = Panel(
    "Attempts by outcome", "ops", [_rate("correio_callbacks_attempts_total", "outcome")]
)
LATE = Panel("Attempts late", "s", _quantiles("correio_callbacks_late_seconds"))
SPOOL = Panel(
    "Spool", "bytes",
    [
        ("sum by (instance) (correio_spool_bytes)", "{{instance}}"),
        ("max(correio_spool_limit_bytes)", "limit"),
    ],
)  # fmt: skip
SPOOL_AGE = Panel(
    "Oldest batch in the spool", "s",
    [("max by (instance) (correio_spool_oldest_seconds)", "{{instance}}")],
)  # fmt: skip
PAUSED = Panel(
    "Paused for the store", "short",
    [
        ("max by (instance) (correio_events_paused)", "events {{instance}}"),
        ("max by (instance) (correio_callbacks_paused)", "callbacks {{instance}}"),
    ],
)  # fmt: skip

DASHBOARDS: Final[dict[str, Sequence[Panel]]] = {
    "Overview": [
        READY, WAITING, SPOOL_AGE, ACCEPTED, LABELS, ATTEMPTS, ANSWERS, LAG, LATE, QUARANTINED,
        PAUSED, CONSUMERS, STORED,
        Panel("CPU", "percentunit", [_rate("process_cpu_seconds_total", "job", "instance")]),
        Panel("Memory", "bytes",
              [("sum by (job, instance) (process_resident_memory_bytes)", "{{job}} {{instance}}")]),
    ],
    "Queues": [
        READY, WAITING, CONSUMERS, OLDEST,
        Panel(
            "Unacknowledged", "short",
            [("max by (queue) (correio_queue_messages_unacknowledged)", "{{queue}}")],
            "As the broker tells it, through the console.",
        ),
        Panel(
            "In the workers' hands", "short",
            [("sum by (queue) (correio_consumer_messages_unacknowledged)", "{{queue}}")],
        ),
        Panel("Messages relayed", "ops", [_rate("correio_callbacks_relayed_total", "way")]),
        Panel("Callback messages taken", "ops",
              [_rate("correio_callbacks_messages_total", "result")]),
    ],
    "Receiver and spool": [
        ACCEPTED, REFUSED, ANSWERS, CONFIRMS, SPOOL, SPOOL_AGE,
        Panel("Events in the spool", "short",
              [("sum by (instance) (correio_spool_events)", "{{instance}}")]),
        Panel("Drained", "ops", [_rate("correio_spool_drained_events_total", "instance")]),
        Panel("Refused for a full spool", "ops", [_rate("correio_spool_full_total", "instance")]),
        Panel("Batches not confirmed in time", "ops",
              [_rate("correio_receiver_publish_failures_total", "instance")]),
        Panel(
            "Broker and circuit", "short",
            [
                ("min by (instance) (correio_receiver_broker_connected)", "connected {{instance}}"),
                ("max by (instance) (correio_receiver_circuit_open)", "circuit open {{instance}}"),
            ],
        ),
        Panel("Connections", "short",
              [("sum by (instance) (correio_receiver_connections)", "{{instance}}")]),
        Panel("Batches in hand", "short",
              [("sum by (instance) (correio_receiver_in_flight)", "{{instance}}")]),
    ],
    "State": [
        LABELS, LAG, QUARANTINED, OPEN,
        Panel("Notices", "ops", [_rate("correio_notices_total", "type")]),
        Panel("Events in one transaction", "short", _quantiles("correio_events_batch_size")),
        Panel("Folding a batch", "s", _quantiles("correio_events_fold_seconds")),
        Panel("A whole transaction", "s", _quantiles("correio_events_commit_seconds")),
        Panel("Transactions run again", "ops",
              [_rate("correio_events_conflicts_total", "instance")]),
        Panel("Batches split", "ops", [_rate("correio_events_batch_splits_total", "instance")]),
    ],
    "Endpoints": [
        ATTEMPTS, LATE, STORED,
        Panel("An attempt", "s", _quantiles("correio_callbacks_attempt_seconds", "endpoint")),
        Panel("From the change to its callback", "s",
              _quantiles("correio_callbacks_delivery_seconds", "endpoint")),
        Panel("Deliveries by where they went", "ops",
              [_rate("correio_callbacks_deliveries_total", "endpoint", "state")]),
        Panel("Breaker open", "short",
              [("max by (endpoint) (correio_callbacks_breaker_open)", "{{endpoint}}")]),
        Panel("In flight", "short",
              [("sum by (endpoint) (correio_callbacks_in_flight)", "{{endpoint}}")]),
        Panel("Waiting for a slot", "short",
              [("sum by (endpoint) (correio_callbacks_waiting)", "{{endpoint}}")]),
        Panel("Put back", "ops", [_rate("correio_callbacks_parked_total", "endpoint", "reason")]),
        Panel("Held", "ops", [_rate("correio_callbacks_held_total", "endpoint")]),
        Panel("Released", "ops", [_rate("correio_callbacks_released_total", "endpoint")]),
        Panel("Messages not confirmed", "ops",
              [_rate("correio_callbacks_relay_failures_total", "instance")]),
    ],
}  # fmt: skip
"""Dashboard → its panels, from left to right, row by row."""


def file_of(title: str) -> Path:
    """Where a dashboard is kept."""
    return FOLDER / f"{title.lower().replace(' ', '-')}.json"


def dashboard(title: str) -> dict[str, Any]:
    """What Grafana reads."""
    return {
        "uid": f"correio-{title.lower().replace(' ', '-')}",
        "title": f"Correio: {title}",
        "tags": ["correio"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "panels": [
            _panel(panel, number) for number, panel in enumerate(DASHBOARDS[title])
        ],
    }  # fmt: skip


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS // WIDTH)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "datasource": {"type": "prometheus", "uid": "correio"},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def text_of(title: str) -> str:
    """A dashboard's file."""
    return json.dumps(dashboard(title), indent=1) + "\n"


def main() -> None:
    """Write every dashboard."""
    FOLDER.mkdir(exist_ok=True)
    for title in DASHBOARDS:
        file_of(title).write_text(text_of(title))


if __name__ == "__main__":
    main()
