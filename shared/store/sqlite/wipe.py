"""Overwriting what SQLite leaves in its files of keys and tokens that were deleted."""

from collections.abc import Sequence

import apsw

from shared.store.database import immediate
from shared.store.sqlite.parts import SqlitePart

_TABLES = {"data_keys": "aggregate_id", "quarantine_keys": "entry_id", "subjects": "aggregate_id"}
"""Each with what it is filled by again."""


class SqliteTraces(SqlitePart):
    """`shared.store.port.TraceStore` on SQLite."""

    async def wipe(self, _aggregate_ids: Sequence[int]) -> dict[str, str]:
        """See `shared.store.port.TraceStore`.

        A page that was split or joined may hold a copy of a row that went later. So the small
        tables of keys and tokens are filled anew, upon which SQLite overwrites their old pages,
        and the write-ahead log is cut off.
        """
        async with self._turn:
            await self._database.run(_wipe)
            await self._database.cut_log()
        return {"store": "keys and tokens were written anew and the write-ahead log was cut off"}

    async def wipe_notes(self) -> None:
        """See `shared.store.port.TraceStore`; what the eraser deletes is overwritten anyway."""
        async with self._turn:
            await self._database.cut_log()

    async def wipe_all(self) -> None:
        """See `shared.store.port.TraceStore`."""
        await self.wipe([])


def _wipe(connection: apsw.Connection) -> None:
    connection.execute("PRAGMA secure_delete = ON").fetchall()
    with immediate(connection):
        for table, key in _TABLES.items():
            connection.execute(
                f"CREATE TEMP TABLE kept AS SELECT * FROM main.{table};"  # noqa: S608 - names of our own
                f"DELETE FROM main.{table};"
                f"INSERT INTO main.{table} SELECT * FROM temp.kept ORDER BY {key};"
                "DROP TABLE temp.kept"
            )
