"""What the parts of the PostgreSQL store share: the pool, faults, bulk inserts."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from shared.errors import StoreConflictError, StoreUnavailableError

Connection = psycopg.AsyncConnection[TupleRow]

_CONFLICT = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.UniqueViolation,
)
_UNAVAILABLE = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed, OSError)


@contextlib.contextmanager
def translated() -> Any:
    """Raise PostgreSQL's faults as errors of ours; what speaks of the data passes through."""
    try:
        yield
    except _CONFLICT as error:
        raise StoreConflictError(f"PostgreSQL: {type(error).__name__}") from error
    except _UNAVAILABLE as error:
        said = str(error).strip().splitlines()
        raise StoreUnavailableError(
            f"PostgreSQL: {type(error).__name__}: {said[0] if said else 'no details'}"
        ) from error


class PostgresPart:
    """A part of the store: works over the pool's connections."""

    _pool: AsyncConnectionPool[Connection]

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction that commits at the end of the block."""
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                yield connection

    async def _rows(self, query: str, values: Sequence[Any] = ()) -> list[TupleRow]:
        with translated():
            async with self._pool.connection() as connection:
                return await rows(connection, query, values)

    async def _change(self, query: str, values: Sequence[Any] = ()) -> int:
        async with self._transaction() as connection:
            return (await execute(connection, query, values)).rowcount


async def execute(
    connection: Connection, query: str, values: Sequence[Any] = ()
) -> psycopg.AsyncCursor[TupleRow]:
    """Run a statement of ours."""
    return await connection.execute(sql.SQL(query), values)


async def rows(connection: Connection, query: str, values: Sequence[Any] = ()) -> list[TupleRow]:
    """All rows of a query of ours."""
    return await (await execute(connection, query, values)).fetchall()


def insert(table: str, columns: dict[str, str], *, rest: str = "") -> str:
    """An INSERT of many rows, one array for each column.

    Args:
        table: where to.
        columns: column → its SQL type.
        rest: an ON CONFLICT clause.
    """
    arrays = ", ".join(f"%b::{kind}[]" for kind in columns.values())
    return f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({arrays}) {rest}"  # noqa: S608 - names of our own


async def insert_all(
    connection: Connection, statement: str, records: Sequence[tuple[Any, ...]]
) -> None:
    """Run a statement made by `insert` for these rows; none is no work."""
    if records:
        await execute(
            connection, statement, [list(column) for column in zip(*records, strict=True)]
        )
