"""What may go by its age, as far as both databases say it alike. Times are Unix milliseconds.

An aggregate that has ended goes as a whole, with its history, transitions, deliveries and attempts,
so that the books balance after it as before. An event goes with the last aggregate that it speaks
of. Payloads and attempts also go by their own age, and everything else by its own.
"""

from enum import StrEnum

from msgspec import Struct

from shared.config import RetentionConfig
from shared.ids import lowest_id

DAY = 86_400_000
"""Milliseconds. Payloads and attempts go by whole days of UTC."""

LONG_AGO = 0
"""The limit of what is kept for ever: nothing is older."""


class Kind(StrEnum):
    """What has a limit of its own."""

    PAYLOADS = "payloads"
    ATTEMPTS = "attempts"
    AGGREGATES = "aggregates"
    QUARANTINE_OPEN = "quarantine_open"
    QUARANTINE_RESOLVED = "quarantine_resolved"
    AUDIT = "audit"
    SAMPLES = "samples"
    ERASURES = "erasures"


OWNED = ("data_keys", "subjects", "ordered_for")
"""Tables of what belongs to an aggregate beside its rows; they go with it uncounted."""

HEAVY = (Kind.PAYLOADS, Kind.ATTEMPTS)
"""Kinds of many rows, which go by their age alone."""


class Limits(Struct, frozen=True):
    """Before which time each kind may go.

    Attributes:
        ended: for consents rejected, expired or revoked, requests complete or settled, and links
            without either, since their last event.
        deleted: the same for consents deleted by the user: what stays of them turns late events
            away, so they are kept longer.
        undelivered: for deliveries that wait or were given up, since they last moved; until then
            they keep their aggregate.
    """

    payloads: int
    attempts: int
    ended: int
    deleted: int
    undelivered: int
    quarantine_open: int
    quarantine_resolved: int
    audit: int
    samples: int
    erasures: int

    def before(self, kind: Kind) -> int:
        """The limit of a kind."""
        if kind is Kind.AGGREGATES:
            return max(self.ended, self.deleted)
        limit: int = getattr(self, kind.value)
        return limit


def limits(config: RetentionConfig, *, now: int) -> Limits:
    """The configured ages as times; 0 days means for ever."""

    def before(days: float) -> int:
        return now - int(days * DAY) if days else LONG_AGO

    return Limits(
        payloads=before(config.payload_days) // DAY * DAY,
        attempts=before(config.attempt_days) // DAY * DAY,
        ended=before(config.ended_days),
        deleted=before(config.deleted_days),
        undelivered=before(config.undelivered_days),
        quarantine_open=before(config.quarantine_open_days),
        quarantine_resolved=before(config.quarantine_resolved_days),
        audit=before(config.audit_days),
        samples=before(config.sample_days),
        erasures=before(config.erasure_days),
    )


class Step(Struct, frozen=True):
    """What one bounded step did.

    Attributes:
        removed: rows by table.
        seconds: for which it kept others from writing.
        last: the key that the next step goes on after; None when nothing is left.
    """

    removed: dict[str, int]
    seconds: float
    last: str | int | None


class Page(Struct, frozen=True):
    """Some aggregates in the order of their making.

    Attributes:
        going: ids of those that may go.
        last: id of the last one looked at; None when there was none.
    """

    going: list[int]
    last: int | None


ENDED = """
a.conflict = 0 AND a.kind {which} 'link' AND (
    (a.status IN ('REJECTED', 'EXPIRED', 'REVOKED', 'COMPLETE', 'SETTLED') AND a.touched_at < ?)
    OR (a.status = 'DELETED_BY_USER' AND a.touched_at < ?)
    OR (a.status IN ('CREATED', 'PLACEHOLDER') AND a.kind = 'link' AND a.touched_at < ?
        AND NOT EXISTS (SELECT 1 FROM aggregates m WHERE m.link_id = a.key AND m.link_id <> ''
                        AND m.partner_app_id = a.partner_app_id))
    OR (a.status = '' AND a.version = 0 AND a.touched_at = 0)
) AND NOT EXISTS (
    SELECT 1 FROM deliveries d WHERE d.aggregate_id = a.id
    AND d.state IN ('pending', 'retrying', 'held', 'exhausted')
    AND (d.updated_at >= ? OR d.due_at >= ?)
) AND NOT EXISTS (
    SELECT 1 FROM erasures x WHERE x.key = a.key AND x.aggregate_id = a.id AND x.state <> 'done'
)
"""
"""Whether aggregate `a` may go; `which` is ``=`` for links and ``<>`` for the others.

One without any event was only ever locked. A conflict that nobody has cleared keeps its consent,
and so does an erasure that is not done.
"""

PAGE = """
SELECT a.id, CASE WHEN {ended} THEN 1 ELSE 0 END FROM (
    SELECT id, kind, partner_app_id, key, version, status, conflict, touched_at
    FROM aggregates WHERE id > ? ORDER BY id LIMIT ?
) a ORDER BY a.id
"""

BEGAN = """
SELECT received_at FROM events
WHERE seq = (SELECT min(event_seq) FROM history WHERE aggregate_id = ?)
"""
"""When the oldest event that is stored of an aggregate was received."""


def ended(*, links: bool) -> str:
    """The condition `ENDED` for links or for the others."""
    return ENDED.format(which="=" if links else "<>")


def page_query(*, links: bool) -> str:
    """The query of a `Page`; its values are `ended_values`, the id to go on after and a limit."""
    return PAGE.format(ended=ended(links=links))


def ended_values(limits: Limits) -> tuple[int, int, int, int, int]:
    """The values that `ENDED` asks for."""
    return (limits.ended, limits.deleted, limits.ended, limits.undelivered, limits.undelivered)


class Light(Struct, frozen=True):
    """How a table of few rows is emptied: by a condition, in the order of its key."""

    table: str
    key: str
    condition: str

    @property
    def count(self) -> str:
        """How many rows are over their age."""
        return f"SELECT count(*) FROM {self.table} WHERE {self.condition}"  # noqa: S608 - names of our own

    @property
    def delete(self) -> str:
        """Remove some of them."""
        return (
            f"DELETE FROM {self.table} WHERE {self.key} IN (SELECT {self.key} FROM {self.table} "  # noqa: S608 - names of our own
            f"WHERE {self.condition} ORDER BY {self.key} LIMIT ?)"
        )

    def values(self, before: int) -> tuple[str | int, ...]:
        """The condition's values; an id of ours tells its time, which bounds the search."""
        return (lowest_id(before), before) if self.key == "id" else (before,)


LIGHT = {
    Kind.QUARANTINE_OPEN: Light(
        "quarantine", "id", "id < ? AND status IN ('open', 'erased') AND received_at < ?"
    ),
    Kind.QUARANTINE_RESOLVED: Light(
        "quarantine", "id", "id < ? AND status IN ('replayed', 'discarded') AND resolved_at < ?"
    ),
    Kind.ERASURES: Light("erasures", "id", "id < ? AND state = 'done' AND asked_at < ?"),
    Kind.AUDIT: Light("audit", "id", "id < ? AND at < ?"),
    Kind.SAMPLES: Light("samples", "at", "at < ?"),
}

ORPHANED_KEYS = """
DELETE FROM quarantine_keys WHERE entry_id IN (
    SELECT k.entry_id FROM quarantine_keys k
    WHERE NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.id = k.entry_id) LIMIT ?
)
"""
"""Remove keys of quarantine entries that are gone."""

OLDEST = {
    "payloads": "SELECT received_at FROM payloads ORDER BY seq LIMIT 1",
    "attempts": "SELECT at FROM attempts ORDER BY delivery_id, number LIMIT 1",
    "events": "SELECT received_at FROM events ORDER BY seq LIMIT 1",
    "quarantine": "SELECT received_at FROM quarantine ORDER BY id LIMIT 1",
    "audit": "SELECT at FROM audit ORDER BY id LIMIT 1",
    "samples": "SELECT at FROM samples ORDER BY at LIMIT 1",
}
"""Table → when its first row by key was made, which is its oldest but for some disorder."""
