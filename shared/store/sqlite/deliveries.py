"""The callbacks worker's part of the SQLite store."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import apsw
import orjson

from shared.store.mapping import (
    KEY_OF_DELIVERY,
    delivery,
    sealed_answer,
    select_deliveries,
    turns,
)
from shared.store.rows import (
    AttemptRecord,
    Delivery,
    DeliveryState,
    EndpointRow,
    EndpointStatus,
    Standing,
    Wakeup,
)
from shared.store.sqlite.parts import SqlitePart, rows

# Each statement does its work for all of a batch within one step of SQLite, which runs without
# the interpreter's lock: row by row, every step would wait for its turn at it anew.

_ANY_TO_WAKE = """
SELECT 1 FROM deliveries WHERE state IN ('pending', 'retrying') AND wake_at <= ? LIMIT 1
"""

_TO_WAKE = """
SELECT json_group_array(json_array(id, endpoint, due_at)) FROM (
    SELECT id, endpoint, due_at FROM deliveries
    WHERE state IN ('pending', 'retrying') AND wake_at <= ? ORDER BY wake_at LIMIT ?
)
"""

_WAKE = """
UPDATE deliveries SET wake_at = max(due_at, ?1) + ?2
WHERE id IN (SELECT value ->> 0 FROM json_each(?3))
"""

_PARK = """
UPDATE deliveries SET wake_at = n.value FROM json_each(?) AS n
WHERE deliveries.id = n.key AND state IN ('pending', 'retrying')
"""

_LOAD = """
SELECT json_group_array(
    json_array(id, endpoint, state, due_at, attempts, round_start, lease_until)
) FROM deliveries WHERE id IN (SELECT value FROM json_each(?))
"""

_CLAIM = """
UPDATE deliveries SET lease = ?1, lease_until = ?2, wake_at = ?2
WHERE id IN (SELECT value FROM json_each(?3)) AND state IN ('pending', 'retrying')
  AND due_at <= ?4 AND (lease_until IS NULL OR lease_until <= ?4)
"""

_CLAIMED = f"""
{select_deliveries()} WHERE d.id IN (SELECT value FROM json_each(?1)) AND d.lease = ?2
"""  # noqa: S608 - parts of our own

# Who did not hear of a commit records again what it moved: that is known by what it left behind.
_RECORDED = """
attempts >= n.value ->> 2 AND state = n.value ->> 9 AND due_at = n.value ->> 10
AND updated_at = (n.value ->> 3) + (n.value ->> 4) AND last_outcome = n.value ->> 5
"""

# Attempts go by their age, so their number is counted at the delivery and never from what is left.
_INSERT_ATTEMPTS = f"""
INSERT INTO attempts (delivery_id, number, at, duration_ms, outcome, status, error, answer, private)
SELECT d.id, max(n.value ->> 2, d.attempts + 1), n.value ->> 3, n.value ->> 4, n.value ->> 5,
       n.value ->> 6, n.value ->> 7, x'', unhex(n.value ->> 8)
FROM json_each(?) AS n CROSS JOIN deliveries d ON d.id = n.value ->> 0
WHERE NOT ({_RECORDED})
"""  # noqa: S608 - parts of our own

_MOVE = """
UPDATE deliveries
SET state = n.value ->> 9, due_at = n.value ->> 10, wake_at = n.value ->> 10,
    lease = NULL, lease_until = NULL, updated_at = (n.value ->> 3) + (n.value ->> 4),
    last_outcome = n.value ->> 5, last_error = n.value ->> 7,
    attempts = max(n.value ->> 2, attempts + 1)
FROM json_each(?) AS n
WHERE deliveries.id = n.value ->> 0 AND (
    (lease = n.value ->> 1 AND state IN ('pending', 'retrying'))
    OR (n.value ->> 9 = 'delivered' AND state <> 'delivered')
)
RETURNING deliveries.id
"""

_COUNT_AND_FREE = f"""
UPDATE deliveries SET
    attempts = max(n.value ->> 2, attempts + 1),
    lease = CASE WHEN lease = n.value ->> 1 THEN NULL ELSE lease END,
    lease_until = CASE WHEN lease = n.value ->> 1 THEN NULL ELSE lease_until END
FROM json_each(?) AS n WHERE deliveries.id = n.value ->> 0 AND NOT ({_RECORDED})
"""  # noqa: S608 - parts of our own

_RELEASE_LEASE = """
UPDATE deliveries SET lease = NULL, lease_until = NULL, wake_at = ? WHERE id = ? AND lease = ?
"""

_HOLD = """
UPDATE deliveries SET state = 'held', updated_at = ?1
WHERE id IN (
    SELECT id FROM deliveries WHERE endpoint = ?2 AND state IN ('pending', 'retrying') LIMIT ?3
)
"""

_RELEASE_HELD = """
UPDATE deliveries SET state = 'pending', due_at = ?1, wake_at = ?1, updated_at = ?1
WHERE id IN (SELECT id FROM deliveries WHERE endpoint = ?2 AND state = 'held' ORDER BY id LIMIT ?3)
"""

_SET_ENDPOINT = """
INSERT INTO endpoints (id, status, reason, changed_at) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    status = excluded.status, reason = excluded.reason, changed_at = excluded.changed_at
"""


class SqliteDeliveries(SqlitePart):
    """`shared.store.port.DeliveryStore` on SQLite."""

    async def take_wakeups(self, *, now: int, grace: int, limit: int) -> list[Wakeup]:
        """See `shared.store.port.DeliveryStore`. Takes the write lock only if there is work."""
        if not await self._read(lambda connection: rows(connection, _ANY_TO_WAKE, (now,))):
            return []

        def wake(connection: apsw.Connection) -> list[Wakeup]:
            ((due,),) = rows(connection, _TO_WAKE, (now, limit))
            connection.execute(_WAKE, (now, grace, due))
            return [Wakeup(*row) for row in orjson.loads(due)]

        return await self._write(wake, lasting=False)

    async def park(self, wake_at: Mapping[str, int]) -> None:
        """See `shared.store.port.DeliveryStore`."""
        values = (_json(dict(wake_at)),)
        await self._write(lambda connection: connection.execute(_PARK, values), lasting=False)

    async def load(self, ids: Collection[str]) -> list[Standing]:
        """See `shared.store.port.DeliveryStore`."""
        values = (_json(list(ids)),)
        ((found,),) = await self._read(lambda connection: rows(connection, _LOAD, values))
        return [
            Standing(one, endpoint, DeliveryState(state), *rest)
            for one, endpoint, state, *rest in orjson.loads(found)
        ]

    async def claim(
        self, ids: Collection[str], *, lease: str, now: int, lease_until: int
    ) -> list[Delivery]:
        """See `shared.store.port.DeliveryStore`."""
        wanted = _json(list(ids))

        def claim(connection: apsw.Connection) -> list[tuple[Any, ...]]:
            connection.execute(_CLAIM, (lease, lease_until, wanted, now))
            return rows(connection, _CLAIMED, (wanted, lease)) if connection.changes() else []

        claimed = await self._write(claim, lasting=False)
        return [delivery(self.sealing, row) for row in claimed]

    async def record(self, attempts: Sequence[AttemptRecord]) -> list[str]:
        """See `shared.store.port.DeliveryStore`."""

        def record(connection: apsw.Connection) -> list[str]:
            return [
                one
                for turn in turns(attempts)
                for one in _record(
                    connection, [_values(each, self._answer(connection, each)) for each in turn]
                )
            ]

        return await self._write(record)

    async def release_leases(self, ids: Collection[str], *, lease: str, now: int) -> None:
        """See `shared.store.port.DeliveryStore`."""
        await self._write(
            lambda connection: connection.executemany(
                _RELEASE_LEASE, ((now, one, lease) for one in ids)
            ),
            lasting=False,
        )

    async def hold(self, endpoint: str, *, now: int, limit: int) -> int:
        """See `shared.store.port.DeliveryStore`."""
        return await self._change(_HOLD, (now, endpoint, limit))

    async def release_held(self, endpoint: str, *, now: int, limit: int) -> int:
        """See `shared.store.port.DeliveryStore`."""
        return await self._change(_RELEASE_HELD, (now, endpoint, limit))

    async def endpoint_rows(self) -> dict[str, EndpointRow]:
        """See `shared.store.port.DeliveryStore`."""
        found = await self._read(
            lambda connection: rows(
                connection, "SELECT id, status, reason, changed_at FROM endpoints"
            )
        )
        return {one: EndpointRow(one, EndpointStatus(two), *rest) for one, two, *rest in found}

    async def set_endpoint(
        self, endpoint: str, status: EndpointStatus, *, reason: str, now: int
    ) -> None:
        """See `shared.store.port.DeliveryStore`."""
        await self._change(_SET_ENDPOINT, (endpoint, status.value, reason, now))

    async def oldest_due(self) -> int | None:
        """See `shared.store.port.DeliveryStore`."""
        found = await self._read(
            lambda connection: rows(
                connection,
                "SELECT min(due_at) FROM deliveries WHERE state IN ('pending', 'retrying')",
            )
        )
        oldest: int | None = found[0][0]
        return oldest

    async def _change(self, statement: str, values: tuple[str | int, ...]) -> int:
        def change(connection: apsw.Connection) -> int:
            connection.execute(statement, values)
            return connection.changes()

        return await self._write(change)

    def _answer(self, connection: apsw.Connection, one: AttemptRecord) -> bytes | None:
        """The answer as it is kept; None for none, and where nothing may be kept any more."""
        if one.answer:
            for key in rows(connection, KEY_OF_DELIVERY, (one.delivery_id,)):
                return sealed_answer(self.sealing, one, key)
        return None


def _values(one: AttemptRecord, answer: bytes | None) -> tuple[Any, ...]:
    """What the statements that record an attempt take of it, in their order."""
    return (
        one.delivery_id, one.lease, one.number, one.at, one.duration_ms, one.outcome, one.status,
        one.error, answer.hex() if answer is not None else None, one.state.value, one.due_at,
    )  # fmt: skip


def _record(connection: apsw.Connection, attempts: Sequence[tuple[Any, ...]]) -> list[str]:
    """Append one attempt of each delivery; return the deliveries that moved."""
    values = (_json(attempts),)
    connection.execute(_INSERT_ATTEMPTS, values)
    moved = [one for (one,) in rows(connection, _MOVE, values)]
    known = set(moved)
    rest = [one for one in attempts if one[0] not in known]
    if rest:
        connection.execute(_COUNT_AND_FREE, (_json(rest),))
    return moved


def _json(values: Any) -> str:
    return orjson.dumps(values).decode()
