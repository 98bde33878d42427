"""The callbacks worker's part of the PostgreSQL store."""

from collections.abc import Collection, Mapping, Sequence

from shared.store.mapping import delivery, sealed_answer, select_deliveries, turns
from shared.store.postgres.columns import columns
from shared.store.postgres.link import Connection
from shared.store.postgres.parts import PostgresPart, execute, insert_all, rows
from shared.store.rows import (
    AttemptRecord,
    Delivery,
    DeliveryState,
    EndpointRow,
    EndpointStatus,
    Standing,
    Wakeup,
)

_WAKE = """
WITH due AS (
    SELECT id FROM deliveries
    WHERE state IN ('pending', 'retrying') AND wake_at <= %(now)s
    ORDER BY wake_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE deliveries d SET wake_at = greatest(d.due_at, %(now)s) + %(grace)s
FROM due WHERE d.id = due.id
RETURNING d.id, d.endpoint, d.due_at
"""

_PARK = """
WITH n AS (SELECT * FROM unnest(%b::text[], %b::bigint[]) AS n (id, at)),
held AS (
    SELECT d.id FROM deliveries d JOIN n ON n.id = d.id
    WHERE d.state IN ('pending', 'retrying') ORDER BY d.id FOR UPDATE OF d
)
UPDATE deliveries d SET wake_at = n.at FROM n JOIN held USING (id) WHERE d.id = n.id
"""

_LOAD = """
SELECT id, endpoint, state, due_at, attempts, round_start, lease_until
FROM deliveries WHERE id = ANY (%s)
"""

_CLAIM = f"""
WITH free AS (
    SELECT id FROM deliveries
    WHERE id = ANY (%(ids)s) AND state IN ('pending', 'retrying') AND due_at <= %(now)s
      AND (lease_until IS NULL OR lease_until <= %(now)s)
    ORDER BY id FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE deliveries d
    SET lease = %(lease)s, lease_until = %(until)s, wake_at = %(until)s
    FROM free WHERE d.id = free.id
    RETURNING d.*
)
{select_deliveries("claimed")}
"""  # noqa: S608 - parts of our own

_LOCK = "SELECT id FROM deliveries WHERE id = ANY (%s) ORDER BY id FOR UPDATE"

# Who did not hear of a commit records again what it moved: that is known by what it left behind.
_RECORDED = """
d.attempts >= n.number AND d.state = n.state AND d.due_at = n.due_at
AND d.updated_at = n.ended AND d.last_outcome = n.outcome
"""

# Attempts go by their age, so their number is counted at the delivery and never from what is left.
_INSERT_ATTEMPTS = f"""
INSERT INTO attempts (delivery_id, number, at, duration_ms, outcome, status, error, answer, private)
SELECT n.id, greatest(n.number, d.attempts + 1),
       n.at, n.duration_ms, n.outcome, n.status, n.error, '', n.private
FROM unnest(%b::text[], %b::integer[], %b::bigint[], %b::integer[], %b::text[], %b::integer[],
            %b::text[], %b::bytea[], %b::text[], %b::bigint[], %b::bigint[])
    AS n (id, number, at, duration_ms, outcome, status, error, private, state, due_at, ended)
JOIN deliveries d ON d.id = n.id
WHERE NOT ({_RECORDED})
"""  # noqa: S608 - parts of our own

_KEYS = """
SELECT d.id, d.aggregate_id, k.wrapped_by, k.key
FROM deliveries d JOIN data_keys k ON k.aggregate_id = d.aggregate_id
WHERE d.id = ANY (%s)
"""

_MOVE = """
UPDATE deliveries d
SET state = n.state, due_at = n.due_at, wake_at = n.due_at, lease = NULL, lease_until = NULL,
    updated_at = n.ended, last_outcome = n.outcome, last_error = n.error,
    attempts = greatest(n.number, d.attempts + 1)
FROM unnest(%b::text[], %b::text[], %b::text[], %b::bigint[], %b::bigint[], %b::text[],
            %b::text[], %b::integer[])
    AS n (id, lease, state, due_at, ended, outcome, error, number)
WHERE d.id = n.id AND (
    (d.lease = n.lease AND d.state IN ('pending', 'retrying'))
    OR (n.state = 'delivered' AND d.state <> 'delivered')
)
RETURNING d.id
"""

_COUNT_AND_FREE = f"""
UPDATE deliveries d SET
    attempts = greatest(n.number, d.attempts + 1),
    lease = CASE WHEN d.lease = n.lease THEN NULL ELSE d.lease END,
    lease_until = CASE WHEN d.lease = n.lease THEN NULL ELSE d.lease_until END
FROM unnest(%b::text[], %b::text[], %b::text[], %b::bigint[], %b::bigint[], %b::text[],
            %b::text[], %b::integer[])
    AS n (id, lease, state, due_at, ended, outcome, error, number)
WHERE d.id = n.id AND NOT ({_RECORDED})
"""  # noqa: S608 - parts of our own

_RELEASE_LEASES = """
WITH mine AS (
    SELECT id FROM deliveries WHERE id = ANY (%s) AND lease = %s ORDER BY id FOR UPDATE
)
UPDATE deliveries d SET lease = NULL, lease_until = NULL, wake_at = %s
FROM mine WHERE d.id = mine.id
"""

_HOLD = """
WITH waiting AS (
    SELECT id FROM deliveries
    WHERE endpoint = %(endpoint)s AND state IN ('pending', 'retrying')
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE deliveries d SET state = 'held', updated_at = %(now)s
FROM waiting WHERE d.id = waiting.id
"""

# By an order that only one index has, and with no sorting: else the planner reads all that is held,
# or all deliveries that are older.
_IN_ORDER = "SET LOCAL enable_sort = off"
_RELEASE_HELD = """
WITH held AS (
    SELECT id FROM deliveries WHERE endpoint = %(endpoint)s AND state = 'held'
    ORDER BY created_at, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE deliveries d
SET state = 'pending', due_at = %(now)s, wake_at = %(now)s, updated_at = %(now)s
FROM held WHERE d.id = held.id
"""

_SET_ENDPOINT = """
INSERT INTO endpoints (id, status, reason, changed_at) VALUES (%s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET
    status = excluded.status, reason = excluded.reason, changed_at = excluded.changed_at
"""


class PostgresDeliveries(PostgresPart):
    """`shared.store.port.DeliveryStore` on PostgreSQL."""

    async def take_wakeups(self, *, now: int, grace: int, limit: int) -> list[Wakeup]:
        """See `shared.store.port.DeliveryStore`."""
        async with self._transaction(lasting=False) as connection:
            cursor = await connection.execute(_WAKE, {"now": now, "grace": grace, "limit": limit})
            taken = [Wakeup(*row) for row in await cursor.fetchall()]
        return sorted(taken, key=lambda one: one.due_at)

    async def park(self, wake_at: Mapping[str, int]) -> None:
        """See `shared.store.port.DeliveryStore`."""
        async with self._transaction(lasting=False) as connection:
            await insert_all(connection, _PARK, list(wake_at.items()))

    async def load(self, ids: Collection[str]) -> list[Standing]:
        """See `shared.store.port.DeliveryStore`."""
        async with self._transaction() as connection:
            found = await rows(connection, _LOAD, (list(ids),))
        return [
            Standing(one, endpoint, DeliveryState(state), *rest)
            for one, endpoint, state, *rest in found
        ]

    async def claim(
        self, ids: Collection[str], *, lease: str, now: int, lease_until: int
    ) -> list[Delivery]:
        """See `shared.store.port.DeliveryStore`."""
        values = {"ids": list(ids), "lease": lease, "now": now, "until": lease_until}
        async with self._transaction(lasting=False) as connection:
            cursor = await connection.execute(_CLAIM, values)
            claimed = await cursor.fetchall()
        return [delivery(self.sealing, row) for row in claimed]

    async def record(self, attempts: Sequence[AttemptRecord]) -> list[str]:
        """See `shared.store.port.DeliveryStore`."""
        moved: list[str] = []
        async with self._transaction() as connection:
            ids = sorted({one.delivery_id for one in attempts})
            await execute(connection, _LOCK, (ids,))
            answers = await self._answers(connection, attempts)
            for turn in turns(attempts):
                moved += await _record(connection, turn, answers)
        return moved

    async def release_leases(self, ids: Collection[str], *, lease: str, now: int) -> None:
        """See `shared.store.port.DeliveryStore`."""
        async with self._transaction(lasting=False) as connection:
            await execute(connection, _RELEASE_LEASES, (list(ids), lease, now))

    async def hold(self, endpoint: str, *, now: int, limit: int) -> int:
        """See `shared.store.port.DeliveryStore`."""
        async with self._transaction() as connection:
            values = {"endpoint": endpoint, "now": now, "limit": limit}
            return (await connection.execute(_HOLD, values)).rowcount

    async def release_held(self, endpoint: str, *, now: int, limit: int) -> int:
        """See `shared.store.port.DeliveryStore`."""
        async with self._transaction() as connection:
            await execute(connection, _IN_ORDER)
            values = {"endpoint": endpoint, "now": now, "limit": limit}
            return (await connection.execute(_RELEASE_HELD, values)).rowcount

    async def endpoint_rows(self) -> dict[str, EndpointRow]:
        """See `shared.store.port.DeliveryStore`."""
        found = await self._rows("SELECT id, status, reason, changed_at FROM endpoints")
        return {one: EndpointRow(one, EndpointStatus(two), *rest) for one, two, *rest in found}

    async def set_endpoint(
        self, endpoint: str, status: EndpointStatus, *, reason: str, now: int
    ) -> None:
        """See `shared.store.port.DeliveryStore`."""
        await self._change(_SET_ENDPOINT, (endpoint, status.value, reason, now))

    async def oldest_due(self) -> int | None:
        """See `shared.store.port.DeliveryStore`."""
        ((oldest,),) = await self._rows(
            "SELECT min(due_at) FROM deliveries WHERE state IN ('pending', 'retrying')"
        )
        found: int | None = oldest
        return found

    async def _answers(
        self, connection: Connection, attempts: Sequence[AttemptRecord]
    ) -> dict[AttemptRecord, bytes | None]:
        """The answers as they are kept; nothing for one that may not be kept any more."""
        answered = [one for one in attempts if one.answer]
        if not answered:
            return {}
        ids = sorted({one.delivery_id for one in answered})
        keys = {one: key for one, *key in await rows(connection, _KEYS, (ids,))}
        return {
            one: sealed_answer(self.sealing, one, keys[one.delivery_id])
            for one in answered
            if one.delivery_id in keys
        }


async def _record(
    connection: Connection,
    attempts: Sequence[AttemptRecord],
    answers: Mapping[AttemptRecord, bytes | None],
) -> list[str]:
    """Append one attempt of each delivery; return the deliveries that moved."""
    await insert_all(
        connection,
        _INSERT_ATTEMPTS,
        [
            (
                one.delivery_id, one.number, one.at, one.duration_ms, one.outcome, one.status,
                one.error, answers.get(one), one.state.value, one.due_at,
                one.at + one.duration_ms,
            )
            for one in attempts
        ],
    )  # fmt: skip
    moves = [
        (
            one.delivery_id, one.lease, one.state.value, one.due_at, one.at + one.duration_ms,
            one.outcome, one.error, one.number,
        )
        for one in attempts
    ]  # fmt: skip
    moved = [one for (one,) in await rows(connection, _MOVE, columns(moves))]
    known = set(moved)
    rest = [one for one in moves if one[0] not in known]
    await insert_all(connection, _COUNT_AND_FREE, rest)
    return moved
