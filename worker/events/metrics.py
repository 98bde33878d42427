"""What the events worker measures."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

OTHER: Final = "other"
"""The label of every source that the configuration does not name, if it names any: what a message
says of its source may be anything."""

EVENTS = Counter(
    "correio_events_total", "Events by what became of them.", labelnames=("source", "label")
)
QUARANTINED = Counter(
    "correio_events_quarantined_total",
    "Events put into quarantine, by reason.",
    labelnames=("source", "reason"),
)
TAX_IDS = Counter(
    "correio_events_tax_ids_total",
    "Events that give tax ids, by whether their check digits are right.",
    ("source", "form"),
)
NOTICES = Counter("correio_notices_total", "Versions written, by notice type.", ("type",))
BATCH_SIZE = Histogram(
    "correio_events_batch_size",
    "Events in one transaction.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000),
)
FOLD_SECONDS = Histogram(
    "correio_events_fold_seconds",
    "Time to fold one batch, decoding left out.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
)
COMMIT_SECONDS = Histogram(
    "correio_events_commit_seconds",
    "Time of one whole store transaction, folding included.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
LAG_SECONDS = Histogram(
    "correio_events_lag_seconds",
    "Time from the receiver's having an event to the commit of its effect.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600),
)
SPLITS = Counter("correio_events_batch_splits_total", "Batches split to find a culprit.")
CONFLICTS = Counter("correio_events_conflicts_total", "Transactions run again after a conflict.")
ERASURES = Counter("correio_erasures_total", "Looks at erasures under way; each has two.")
ERASURE_FAILURES = Counter(
    "correio_erasure_failures_total", "Passes of the eraser that broke off and will be made again."
)
ERASURES_OVERDUE = Gauge(
    "correio_erasures_overdue_seconds",
    "How long the longest due step of an erasure had waited at the last look; 0 without any.",
)
UNWRAPPED = Gauge(
    "correio_sealing_unwrapped", "1 while data keys rest unwrapped, since no key is configured."
)
RESTED = Counter(
    "correio_events_rested_seconds_total", "Time rested since others waited for the processors."
)
PAUSED = Gauge("correio_events_paused", "1 while consumption is paused for the store.")

RETENTION_REMOVED = Counter(
    "correio_retention_removed_total", "Rows removed for their age.", ("table",)
)
RETENTION_FAILURES = Counter(
    "correio_retention_failures_total", "Passes that broke off and will be made again."
)
RETENTION_ENDED = Gauge(
    "correio_retention_ended_timestamp_seconds", "When a pass last came to its end."
)
RETENTION_INTERVAL = Gauge(
    "correio_retention_interval_seconds", "How long after its end the next pass is due."
)
RETENTION_OLDEST = Gauge(
    "correio_retention_oldest_timestamp_seconds", "When the oldest row was made.", ("table",)
)
