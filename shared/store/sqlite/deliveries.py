"""The callbacks worker's part of the SQLite store."""

from collections.abc import Collection, Mapping, Sequence

import apsw

from shared.store.mapping import KEY_OF_DELIVERY, SELECT_DELIVERIES, delivery, sealed_answer
from shared.store.rows import (
    AttemptRecord,
    Delivery,
    EndpointRow,
    EndpointStatus,
    Wakeup,
)
from shared.store.sqlite.parts import SqlitePart, rows

_TO_WAKE = """
SELECT id FROM deliveries
WHERE state IN ('pending', 'retrying') AND wake_at <= ? ORDER BY wake_at LIMIT ?
"""

_WAKE = """
UPDATE deliveries SET wake_at = max(due_at, ?1) + ?2
WHERE id = ?3 AND state IN ('pending', 'retrying') AND wake_at <= ?1
RETURNING id, endpoint, due_at
"""

_PARK = """
UPDATE deliveries SET wake_at = ? WHERE id = ? AND state IN ('pending', 'retrying')
"""

_LOAD = f"{SELECT_DELIVERIES} WHERE d.id = ?"

_CLAIM = """
UPDATE deliveries SET lease = ?1, lease_until = ?2, wake_at = ?2
WHERE id = ?3 AND state IN ('pending', 'retrying') AND due_at <= ?4
  AND (lease_until IS NULL OR lease_until <= ?4)
"""

# Attempts go by their age, so their number is counted at the delivery and never from what is left.
_INSERT_ATTEMPT = """
INSERT INTO attempts (delivery_id, number, at, duration_ms, outcome, status, error, answer, private)
SELECT id, max(?2, attempts + 1), ?3, ?4, ?5, ?6, ?7, x'', ?8 FROM deliveries WHERE id = ?1
"""

_MOVE = """
UPDATE deliveries
SET state = ?1, due_at = ?2, wake_at = ?2, lease = NULL, lease_until = NULL,
    updated_at = ?3, last_outcome = ?4, last_error = ?5,
    attempts = max(?8, attempts + 1)
WHERE id = ?6 AND (
    (lease = ?7 AND state IN ('pending', 'retrying'))
    OR (?1 = 'delivered' AND state <> 'delivered')
)
"""

_COUNT_AND_FREE = """
UPDATE deliveries SET
    attempts = max(?2, attempts + 1),
    lease = CASE WHEN lease = ?3 THEN NULL ELSE lease END,
    lease_until = CASE WHEN lease = ?3 THEN NULL ELSE lease_until END
WHERE id = ?1
"""

_RELEASE_LEASE = """
UPDATE deliveries SET lease = NULL, lease_until = NULL, wake_at = ? WHERE id = ? AND lease = ?
"""

_HOLD = """
UPDATE deliveries SET state = 'held', updated_at = ?
WHERE endpoint = ? AND state IN ('pending', 'retrying')
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
        ids = await self._read(lambda connection: rows(connection, _TO_WAKE, (now, limit)))
        if not ids:
            return []

        def wake(connection: apsw.Connection) -> list[Wakeup]:
            taken: list[Wakeup] = []
            for (one,) in ids:
                taken += [Wakeup(*row) for row in rows(connection, _WAKE, (now, grace, one))]
            return taken

        return await self._write(wake, lasting=False)

    async def park(self, wake_at: Mapping[str, int]) -> None:
        """See `shared.store.port.DeliveryStore`."""
        await self._write(
            lambda connection: connection.executemany(
                _PARK, ((at, one) for one, at in wake_at.items())
            ),
            lasting=False,
        )

    async def load(self, ids: Collection[str]) -> list[Delivery]:
        """See `shared.store.port.DeliveryStore`."""
        return await self._read(lambda connection: self._load(connection, ids))

    async def claim(
        self, ids: Collection[str], *, lease: str, now: int, lease_until: int
    ) -> list[Delivery]:
        """See `shared.store.port.DeliveryStore`."""

        def claim(connection: apsw.Connection) -> list[Delivery]:
            claimed = []
            for one in dict.fromkeys(ids):
                connection.execute(_CLAIM, (lease, lease_until, one, now))
                if connection.changes():
                    claimed.append(one)
            return self._load(connection, claimed)

        return await self._write(claim, lasting=False)

    async def record(self, attempts: Sequence[AttemptRecord]) -> list[str]:
        """See `shared.store.port.DeliveryStore`."""

        def record(connection: apsw.Connection) -> list[str]:
            return [
                one.delivery_id
                for one in attempts
                if _record(connection, one, self._answer(connection, one))
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

    async def hold(self, endpoint: str, *, now: int) -> int:
        """See `shared.store.port.DeliveryStore`."""
        return await self._change(_HOLD, (now, endpoint))

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

    def _load(self, connection: apsw.Connection, ids: Collection[str]) -> list[Delivery]:
        return [
            delivery(self.sealing, row) for one in ids for row in rows(connection, _LOAD, (one,))
        ]

    def _answer(self, connection: apsw.Connection, one: AttemptRecord) -> bytes | None:
        """The answer as it is kept; None for none, and where nothing may be kept any more."""
        if one.answer:
            for key in rows(connection, KEY_OF_DELIVERY, (one.delivery_id,)):
                return sealed_answer(self.sealing, one, key)
        return None


def _record(connection: apsw.Connection, one: AttemptRecord, answer: bytes | None) -> bool:
    """Append one attempt; return whether its delivery moved."""
    connection.execute(
        _INSERT_ATTEMPT,
        (
            one.delivery_id, one.number, one.at, one.duration_ms, one.outcome, one.status,
            one.error, answer,
        ),
    )  # fmt: skip
    ended = one.at + one.duration_ms
    connection.execute(
        _MOVE,
        (
            one.state.value, one.due_at, ended, one.outcome, one.error, one.delivery_id, one.lease,
            one.number,
        ),
    )  # fmt: skip
    if connection.changes():
        return True
    connection.execute(_COUNT_AND_FREE, (one.delivery_id, one.number, one.lease))
    return False
