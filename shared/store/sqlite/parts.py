"""What the parts of the SQLite store share."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import apsw

from shared.store.database import SqliteDatabase, immediate, unsynced
from shared.store.seals import Sealing

T = TypeVar("T")


def rows(
    connection: apsw.Connection, query: str, values: tuple[str | int, ...] = ()
) -> list[tuple[Any, ...]]:
    """All rows of a query; their types are the schema's (STRICT tables hold SQLite to it)."""
    return connection.execute(query, values).fetchall()


class SqlitePart:
    """A part of the store: the database, and whose turn it is to use it.

    A transaction spans several hops to the owner thread, so whoever uses the connection holds
    the turn from beginning to end.
    """

    sealing: Sealing
    _database: SqliteDatabase
    _turn: asyncio.Lock

    async def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        async with self._turn:
            return await self._database.run(work)

    async def _write(self, work: Callable[[apsw.Connection], T], *, lasting: bool = True) -> T:
        """Run `work` in a write transaction of its own.

        One that is not `lasting` need not be on disk when this returns: a loss of power may undo
        it. It is so with leases and wake times, without which work is done twice and never lost.
        """

        def transaction(connection: apsw.Connection) -> T:
            with unsynced(connection) if not lasting else nullcontext(), immediate(connection):
                return work(connection)

        async with self._turn:
            return await self._database.run(transaction)
