"""Lists of deliveries, and what an operator does with all of a list.

Times are Unix milliseconds.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from shared.domain.keys import AggregateKey
from shared.store.port import SqlStore

LOOKED_UP = 10_000
"""Entries of an index that are looked up one by one at most."""


class DeliveryRow(Struct, frozen=True):
    """A delivery as operators see it."""

    id: str
    aggregate: AggregateKey
    version: int
    endpoint: str
    type: str
    state: str
    attempts: int
    due_at: int
    created_at: int
    last_outcome: str
    last_error: str
    replay: str


class DeliveryFilter(Struct, frozen=True):
    """Which deliveries; empty members do not restrict. `since` and `until` bound `created_at`.

    Without `by_endpoint`, the index by endpoint stays unused: see `Queries._planned`.
    """

    states: tuple[str, ...] = ()
    endpoint: str = ""
    type: str = ""
    aggregate_id: str = ""
    error: str = ""
    since: int | None = None
    until: int | None = None
    replay: str = ""
    by_endpoint: bool = True

    def where(self) -> tuple[str, list[Any]]:
        """The condition in SQL, and its values."""
        terms, values = ["1 = 1"], list[Any]()
        if self.states:
            terms.append(f"d.state IN ({marks(self.states)})")
            values += self.states
        for column, value in (
            ("d.endpoint = ?" if self.by_endpoint else "d.endpoint || '' = ?", self.endpoint),
            ("d.type = ?", self.type),
            ("a.key = ?", self.aggregate_id),
            ("d.replay = ?", self.replay),
            ("d.created_at >= ?", self.since),
            ("d.created_at < ?", self.until),
        ):
            if value not in ("", None):
                terms.append(column)
                values.append(value)
        if self.error:
            terms.append("(d.last_outcome = ? OR d.last_error LIKE ?)")
            values += [self.error, f"%{self.error}%"]
        return " AND ".join(terms), values


DELIVERY = """
SELECT d.id, a.kind, a.partner_app_id, a.key, d.version, d.endpoint, d.type, d.state, d.attempts,
       d.due_at, d.created_at, d.last_outcome, d.last_error, d.replay
FROM deliveries d JOIN aggregates a ON a.id = d.aggregate_id
"""


class DeliveryLists:
    """Every question and command about many deliveries."""

    _store: SqlStore

    async def deliveries(self, wanted: DeliveryFilter, *, limit: int) -> list[DeliveryRow]:
        """Deliveries by filter, newest first."""
        where, values = (await self._planned(wanted)).where()
        rows = await self._store.fetch(
            f"{DELIVERY} WHERE {where} ORDER BY d.id DESC LIMIT ?", (*values, limit)
        )
        return [delivery_row(row) for row in rows]

    async def delivery(self, delivery_id: str) -> DeliveryRow | None:
        """One delivery."""
        rows = await self._store.fetch(f"{DELIVERY} WHERE d.id = ?", (delivery_id,))
        return delivery_row(rows[0]) if rows else None

    async def count_deliveries(self, wanted: DeliveryFilter, *, at_most: int | None = None) -> int:
        """How many deliveries a filter finds; counting ends at `at_most`, if given."""
        return await self._count(await self._planned(wanted), at_most=at_most)

    async def _planned(self, wanted: DeliveryFilter) -> DeliveryFilter:
        """Keep SQLite from looking up all deliveries of a large endpoint one by one.

        What the index by endpoint and state does not hold wants such a look-up for each entry,
        which takes five times as long as reading the whole table in its order.
        """
        at_once = len(wanted.states) == 1 and wanted == DeliveryFilter(
            states=wanted.states, endpoint=wanted.endpoint
        )
        if not wanted.endpoint or wanted.aggregate_id or wanted.replay or at_once:
            return wanted
        entries = DeliveryFilter(states=wanted.states, endpoint=wanted.endpoint)
        few = await self._count(entries, at_most=LOOKED_UP + 1) <= LOOKED_UP
        return replace(wanted, by_endpoint=few)

    async def _count(self, wanted: DeliveryFilter, *, at_most: int | None) -> int:
        where, values = wanted.where()
        join = "JOIN aggregates a ON a.id = d.aggregate_id " if wanted.aggregate_id else ""
        found = f"FROM deliveries d {join}WHERE {where}"
        query = f"SELECT count(*) {found}"
        if at_most is not None:
            query = f"SELECT count(*) FROM (SELECT 1 {found} LIMIT {int(at_most)}) AS counted"
        ((count,),) = await self._store.fetch(query, values)
        return int(count)

    async def delivery_ids(self, wanted: DeliveryFilter) -> list[str]:
        """Ids of the deliveries that a filter finds, oldest first."""
        where, values = wanted.where()
        rows = await self._store.fetch(
            "SELECT d.id FROM deliveries d JOIN aggregates a ON a.id = d.aggregate_id "
            f"WHERE {where} ORDER BY d.id",
            values,
        )
        return [one for (one,) in rows]

    async def replay(
        self, ids: Sequence[str], *, states: Sequence[str], replay: str, due: Sequence[int]
    ) -> int:
        """Give deliveries a new round of attempts, each due at its own time.

        A delivery that has left `states` meanwhile is passed over. Returns how many were changed.
        """
        return sum(
            await self._store.change([
                (
                    "UPDATE deliveries SET state = 'pending', round_start = attempts, due_at = ?, "
                    "wake_at = ?, replay = ?, lease = NULL, lease_until = NULL "
                    f"WHERE id = ? AND state IN ({marks(states)})",
                    (at, at, replay, one, *states),
                )
                for one, at in zip(ids, due, strict=True)
            ])
        )  # fmt: skip

    async def cancel_replay(self, replay: str) -> int:
        """Put back what a replay has not begun to attempt; returns how many."""
        (count,) = await self._store.change([
            (
                "UPDATE deliveries SET replay = '', state = CASE last_outcome "
                "WHEN 'succeeded' THEN 'delivered' ELSE 'exhausted' END WHERE replay = ? "
                "AND state = 'pending' AND attempts = round_start AND lease IS NULL",
                (replay,),
            )
        ])  # fmt: skip
        return count

    async def cancel(self, ids: Sequence[str], *, now: int) -> int:
        """Cancel deliveries that still wait; returns how many were changed."""
        return sum(
            await self._store.change([
                (
                    "UPDATE deliveries SET state = 'cancelled', updated_at = ? WHERE id = ? "
                    "AND state IN ('pending', 'retrying', 'held', 'exhausted')",
                    (now, one),
                )
                for one in ids
            ])
        )  # fmt: skip


def marks(values: Iterable[Any]) -> str:
    """Marks for so many values."""
    return ", ".join("?" for _ in values)


def delivery_row(row: tuple[Any, ...]) -> DeliveryRow:
    """What `DELIVERY` found."""
    delivery_id, kind, app, key, *rest = row
    return DeliveryRow(delivery_id, AggregateKey(kind, app, key), *rest)
