"""``correio reconcile``: do the books balance?"""

import sys
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from console.context import NO, Context, json_option, pass_context, run
from shared.broker.depth import depths
from shared.domain.aggregates import refold
from shared.errors import CorreioError
from shared.store.queries import Queries
from shared.store.rows import DeliveryState, Label
from shared.store.spool import measure_spool

_LABELS = ", ".join(f"'{one.value}'" for one in Label)
_STATES = ", ".join(f"'{one.value}'" for one in DeliveryState)

COUNTED = {
    "every stored event has exactly one label": (
        f"SELECT count(*) FROM events WHERE label NOT IN ({_LABELS})"  # noqa: S608 - our own constants
    ),
    "every stored event speaks of an aggregate": (
        "SELECT count(*) FROM events e WHERE NOT EXISTS "
        "(SELECT 1 FROM history h WHERE h.event_seq = e.seq)"
    ),
    "every history entry has its event": (
        "SELECT count(*) FROM history h LEFT JOIN events e ON e.seq = h.event_seq "
        "WHERE e.seq IS NULL"
    ),
    "every payload has its event": (
        "SELECT count(*) FROM payloads p LEFT JOIN events e ON e.seq = p.seq WHERE e.seq IS NULL"
    ),
    "versions have no gap": (
        "SELECT count(*) FROM aggregates a LEFT JOIN "
        "(SELECT aggregate_id, count(*) AS n, max(version) AS top FROM transitions "
        "GROUP BY aggregate_id) t ON t.aggregate_id = a.id "
        "WHERE a.version <> coalesce(t.n, 0) OR a.version <> coalesce(t.top, 0)"
    ),
    "every version has its notifications": (
        "SELECT count(*) FROM transitions t LEFT JOIN "
        "(SELECT aggregate_id, version, count(*) AS n FROM deliveries "
        "GROUP BY aggregate_id, version) d "
        "ON d.aggregate_id = t.aggregate_id AND d.version = t.version "
        "WHERE t.notified <> coalesce(d.n, 0)"
    ),
    "every notification belongs to a version": (
        "SELECT count(*) FROM deliveries d LEFT JOIN transitions t "
        "ON t.aggregate_id = d.aggregate_id AND t.version = d.version WHERE t.version IS NULL"
    ),
    "every notification is in exactly one state": (
        f"SELECT count(*) FROM deliveries WHERE state NOT IN ({_STATES})"  # noqa: S608 - our own constants
    ),
    "attempts are numbered without a gap and counted": (
        "SELECT count(*) FROM deliveries d LEFT JOIN "
        "(SELECT delivery_id, count(*) AS n, max(number) AS top FROM attempts "
        "GROUP BY delivery_id) a ON a.delivery_id = d.id "
        "WHERE d.attempts <> coalesce(a.n, 0) OR d.attempts <> coalesce(a.top, 0)"
    ),
    "what is delivered has a successful attempt": (
        "SELECT count(*) FROM deliveries d WHERE d.state = 'delivered' AND NOT EXISTS "
        "(SELECT 1 FROM attempts a WHERE a.delivery_id = d.id AND a.status BETWEEN 200 AND 299)"
    ),
}
"""Check → a query that counts what breaks it."""

_OVERDUE = (
    "SELECT count(*) FROM deliveries WHERE state IN ('pending', 'retrying') AND due_at < ? "
    "AND (lease_until IS NULL OR lease_until < ?)"
)


class Check(Struct, frozen=True, rename="camel"):
    """One line of the audit."""

    name: str
    ok: bool
    expected: int
    found: int


@click.command()
@click.option(
    "--late-after",
    default=300.0,
    type=click.FloatRange(min=0),
    help="Seconds past its due time after which a waiting delivery is late.",
)
@json_option
@pass_context
def reconcile(context: Context, late_after: float, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """Audit the books: events, state, versions, notifications, attempts. Exit 1 if they do not balance."""  # noqa: E501 - click shows the first line whole
    checks = run(_audit(context, late_after))
    balanced = all(one.ok for one in checks)
    beside = run(_beside(context))
    answer = {
        "balanced": balanced,
        "checks": [
            {"name": c.name, "ok": c.ok, "expected": c.expected, "found": c.found} for c in checks
        ],
        "beside": beside,
    }

    def human() -> None:
        rows = (("ok" if c.ok else "FAILED", c.name, c.expected, c.found) for c in checks)
        context.table("Books", ("", "check", "expected", "found"), rows)
        context.table("Still under way", ("where", "messages"), beside.items())
        click.echo("balanced" if balanced else "NOT balanced")

    context.show(answer, as_json=as_json, human=human)
    if not balanced:
        sys.exit(NO)


async def _audit(context: Context, late_after: float) -> list[Check]:
    async with context.queries() as queries:
        checks = []
        for name, query in COUNTED.items():
            broken = await queries.number(query)
            checks.append(Check(name, broken == 0, 0, broken))
        checks.append(await _folds(queries))
        now = context.clock.now()
        late = await queries.number(_OVERDUE, (now - int(late_after * 1000), now))
        checks.append(Check("nothing due is later than it may be", late == 0, 0, late))
        return checks


async def _folds(queries: Queries) -> Check:
    """Fold every history anew. An aggregate without any event is one that was only locked."""
    expected = found = 0
    async for page in queries.projections():
        for aggregate, history in page:
            expected += 1
            found += refold(aggregate.state, history) == aggregate.state
    name = "folding every history anew gives the stored state"
    return Check(name, expected == found, expected, found)


async def _beside(context: Context) -> dict[str, Any]:
    """What still lies in spool and queues; None where it cannot be read."""
    spool = measure_spool(Path(context.config.receiver.spool), now=context.clock.now())
    beside: dict[str, Any] = {"spool": spool.events if spool else None}
    try:
        beside |= {one.name: one.ready for one in await depths(context.config.broker.url)}
    except CorreioError:
        beside["broker"] = None
    return beside
