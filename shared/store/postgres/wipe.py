"""Having PostgreSQL write anew the tables in which keys and tokens were deleted."""

import re
from collections.abc import Sequence

from psycopg import errors

from shared.errors import StoreUnavailableError
from shared.store.postgres.link import Connection
from shared.store.postgres.partitions import change
from shared.store.postgres.parts import PostgresPart, execute, rows, translated

PARTS = 16
"""Into so many parts ``data_keys`` and ``subjects`` are cut."""

_TOUCHED = """
SELECT DISTINCT part FROM generate_series(0, %s) AS part, unnest(%s::bigint[]) AS id
WHERE satisfies_hash_partition('data_keys'::regclass, %s, part, id) ORDER BY part
"""


NOTES_MAX = 64 * 1_048_576
"""Bytes of the table of erasures up to which it is written anew."""

_SMALL_AND_OWN = """
SELECT pg_relation_size(oid) <= %s AND pg_get_userbyid(relowner) = current_user
FROM pg_class WHERE oid = 'erasures'::regclass
"""

_PRIMARY_KEY = """
SELECT indexrelid::regclass::text FROM pg_index
WHERE indrelid = to_regclass(%s) AND indisprimary
"""


class PostgresTraces(PostgresPart):
    """`shared.store.port.TraceStore` on PostgreSQL."""

    async def wipe(self, aggregate_ids: Sequence[int]) -> dict[str, str]:
        """See `shared.store.port.TraceStore`.

        Deleted rows leave their bytes in their pages, so the tables are written anew, for which
        one must be their owner. That locks them; so only those of the small parts are written in
        which something was deleted. A checkpoint lets old segments of the write-ahead log go.
        """
        ids = list(aggregate_ids)
        with translated():
            async with self._connection(long=True) as connection:
                touched = await rows(connection, _TOUCHED, (PARTS - 1, ids, PARTS))
                tables = [
                    f"{table}_{part:02d}"
                    for (part,) in touched
                    for table in ("data_keys", "subjects")
                ]
                owned = await rows(
                    connection,
                    "SELECT pg_get_userbyid(relowner) = current_user FROM pg_class "
                    "WHERE oid = 'data_keys'::regclass",
                )
                if owned != [(True,)]:
                    return {
                        "store": "the owner of the tables must run VACUUM FULL on "
                        + ", ".join([*tables, "quarantine_keys"])
                    }
                for table in [*tables, "quarantine_keys"]:
                    await _write_anew(connection, table)
                try:
                    await execute(connection, "CHECKPOINT")
                except errors.InsufficientPrivilege:
                    return {"store": "keys and tokens were written anew; no right to a checkpoint"}
        return {"store": "keys and tokens were written anew, and a checkpoint was made"}

    async def wipe_notes(self) -> None:
        """See `shared.store.port.TraceStore`; a large table is left to the autovacuum."""
        with translated():
            async with self._connection(long=True) as connection:
                small = await rows(connection, _SMALL_AND_OWN, (NOTES_MAX,))
                if small == [(True,)]:
                    await _write_anew(connection, "erasures")

    async def wipe_all(self) -> None:
        """See `shared.store.port.TraceStore`."""
        await self.wipe(range(PARTS * PARTS * PARTS))


async def _write_anew(connection: Connection, table: str) -> None:
    """Write a table anew without what was deleted in it.

    By ``CLUSTER``, which may stand in a transaction and so can be kept from waiting long for its
    lock, behind which everybody else would wait: unlike ``VACUUM FULL``.

    Raises:
        StoreUnavailableError: a transaction that began before still sees what was deleted, which
            was copied for its sake. It must be done again when that has ended.
        psycopg.errors.LockNotAvailable: somebody has held the table all the while.
    """
    ((key,),) = await rows(connection, _PRIMARY_KEY, (table,))
    told: list[str] = []
    connection.add_notice_handler(note := lambda said: told.append(said.message_detail or ""))
    try:
        await change(connection, f"CLUSTER VERBOSE {table} USING {key}")
    finally:
        connection.remove_notice_handler(note)
    # "3 dead row versions cannot be removed yet", in the server's language.
    if any(int(count) for detail in told for count in re.findall(r"\d+", detail)[:1]):
        raise StoreUnavailableError(
            f"PostgreSQL: an older transaction still sees what was deleted from {table}"
        )
