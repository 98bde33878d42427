"""Wrapping data keys anew by the first configured key, a few at a time, while everything runs.

No payload is touched. A data key that was destroyed or rewrapped meanwhile is passed over.
"""

from typing import Any, Protocol

from shared.errors import SealingKeyError
from shared.sealing import Wrapped
from shared.store.port import SqlStore, Statement, TraceStore
from shared.store.seals import entry_owner, owner

STEP = 500

_TABLES = (("data_keys", "aggregate_id"), ("quarantine_keys", "entry_id"))


ORPHANS = (
    "DELETE FROM data_keys WHERE NOT EXISTS "
    "(SELECT 1 FROM aggregates a WHERE a.id = data_keys.aggregate_id)"
)
ORPHANED_ENTRIES = (
    "DELETE FROM quarantine_keys WHERE NOT EXISTS "
    "(SELECT 1 FROM quarantine q WHERE q.id = quarantine_keys.entry_id)"
)


class KeyStore(SqlStore, TraceStore, Protocol):
    """What wrapping anew needs of a store."""


async def count_by_key(store: SqlStore) -> dict[str, int]:
    """Id of a wrapping key → how many data keys it wraps; reads every key."""
    counts: dict[str, int] = {}
    for table, _ in _TABLES:
        for by, count in await store.fetch(
            f"SELECT wrapped_by, count(*) FROM {table} GROUP BY wrapped_by"  # noqa: S608 - names of our own
        ):
            counts[by] = counts.get(by, 0) + int(count)
    return counts


async def rewrap(store: KeyStore) -> int:
    """Wrap every data key that another key wraps; returns how many.

    Called again after a fault, it goes on, and wipes what the first call had left.

    Raises:
        StoreUnavailableError: somebody still reads what was there; call it again later.
        SealingKeyError: no key is configured, or one that is in use is not.
    """
    ring = store.sealing.ring
    if not ring.ids:
        raise SealingKeyError("sealing.keys is empty: there is no key to wrap by")
    count = 0
    for table, column in _TABLES:
        last: Any = "" if table == "quarantine_keys" else -1
        while rows := await store.fetch(
            f"SELECT {column}, wrapped_by, key FROM {table} "  # noqa: S608 - names of our own
            f"WHERE {column} > ? ORDER BY {column} LIMIT ?",
            (last, STEP),
        ):
            last = rows[-1][0]
            statements: list[Statement] = []
            for one, by, key in rows:
                if by == ring.first:
                    continue
                whose = owner(one) if table == "data_keys" else entry_owner(one)
                made = ring.wrap(ring.unwrap(Wrapped(by, bytes(key)), whose), whose)
                statements.append((
                    f"UPDATE {table} SET wrapped_by = ?, key = ? "  # noqa: S608 - as above
                    f"WHERE {column} = ? AND wrapped_by = ?",
                    (made.by, made.key, one, by),
                ))  # fmt: skip
            if statements:
                count += sum(await store.change(statements))
    await store.wipe_all()
    return count
