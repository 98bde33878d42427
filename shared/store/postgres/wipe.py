"""Having PostgreSQL write anew the tables in which keys and tokens were deleted."""

from collections.abc import Sequence

from psycopg import errors

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


class PostgresTraces(PostgresPart):
    """`shared.store.port.TraceStore` on PostgreSQL."""

    async def wipe(self, aggregate_ids: Sequence[int]) -> dict[str, str]:
        """See `shared.store.port.TraceStore`.

        Deleted rows leave their bytes in their pages. ``VACUUM FULL`` writes a table anew, for
        which it must be its owner's and locks it; so only those of the small parts are written in
        which something was deleted. A checkpoint lets old segments of the write-ahead log go.
        """
        if not aggregate_ids:
            return {}
        ids = list(aggregate_ids)
        with translated():
            async with self._pool.connection() as connection:
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
                    await execute(connection, f"VACUUM (FULL) {table}")
                try:
                    await execute(connection, "CHECKPOINT")
                except errors.InsufficientPrivilege:
                    return {"store": "keys and tokens were written anew; no right to a checkpoint"}
        return {"store": "keys and tokens were written anew, and a checkpoint was made"}

    async def wipe_notes(self) -> None:
        """See `shared.store.port.TraceStore`; a large table is left to the autovacuum."""
        with translated():
            async with self._pool.connection() as connection:
                small = await rows(connection, _SMALL_AND_OWN, (NOTES_MAX,))
                if small == [(True,)]:
                    await execute(connection, "VACUUM (FULL) erasures")

    async def wipe_all(self) -> None:
        """See `shared.store.port.TraceStore`."""
        await self.wipe(range(PARTS * PARTS * PARTS))
