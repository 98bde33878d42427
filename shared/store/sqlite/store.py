"""The SQLite store: the parts put together over one connection."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from shared.config import SealingConfig
from shared.store.database import SqliteDatabase
from shared.store.port import Statement
from shared.store.schema import load_migrations, require_current
from shared.store.seals import Sealing
from shared.store.sqlite.deliveries import SqliteDeliveries
from shared.store.sqlite.events import SqliteEvents
from shared.store.sqlite.migrate import applied, index_key
from shared.store.sqlite.parts import rows
from shared.store.sqlite.retention import SqliteRetention
from shared.store.sqlite.wipe import SqliteTraces


class SqliteStore(SqliteEvents, SqliteDeliveries, SqliteRetention, SqliteTraces):
    """A whole store in one file."""

    def __init__(self, path: Path, *, busy_timeout: float, sealing: Sealing | None = None) -> None:
        """`busy_timeout`: seconds to wait for another process's transaction."""
        self.sealing = sealing or Sealing(SealingConfig())
        self._database = SqliteDatabase(path, busy_timeout=busy_timeout, checkpoints_beside=True)
        self._turn = asyncio.Lock()
        self._known = load_migrations("sqlite")

    async def start(self) -> None:
        """Open the file and check its schema.

        Raises:
            StoreUnavailableError: there is no such file yet, or it is locked.
            SchemaError: the schema is not this release's.
        """
        await self._database.open(create=False)
        await self._database.run(self._check)

    async def ping(self) -> None:
        """Return if the database can be written to right now."""
        async with self._turn:
            if not self._database.is_open:
                await self._database.open(create=False)
            await self._database.run(_try_write_lock)

    async def fetch(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See `shared.store.port.SqlStore`."""
        return await self._read(lambda connection: rows(connection, query, tuple(values)))

    async def change(self, statements: Sequence[Statement]) -> list[int]:
        """See `shared.store.port.SqlStore`."""

        def change(connection: apsw.Connection) -> list[int]:
            changed = []
            for query, values in statements:
                connection.execute(query, tuple(values))
                changed.append(connection.changes())
            return changed

        return await self._write(change)

    async def close(self) -> None:
        """Close the file and end its thread."""
        async with self._turn:
            await self._database.close()
        self._database.shutdown()

    def _check(self, connection: apsw.Connection) -> None:
        require_current(applied(connection), self._known)
        if not self.sealing.index_key:
            self.sealing.index_key = index_key(connection)


def _try_write_lock(connection: apsw.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")
