"""What the parts of the PostgreSQL store share: connections, faults, bulk inserts."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from shared.errors import StoreConflictError, StoreUnavailableError
from shared.logs import get_logger
from shared.store.postgres.columns import columns
from shared.store.postgres.link import LONG, Connection
from shared.store.seals import Sealing

log = get_logger(__name__)

_CONFLICT = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.UniqueViolation,
)
_UNREACHABLE = (PoolTimeout, PoolClosed, psycopg.InterfaceError, OSError)

# By class of SQLSTATE. Everything else that a server says is about itself and not about the rows
# it was given: it is shutting down, read-only, out of space, lacks a table or a right.
_ABOUT_DATA = (
    "22",  # data exception
    "23",  # integrity constraint violation
    "54",  # program limit exceeded, such as a text too long for an index
)

_DEFAULTS: dict[str, str | int] = {
    "application_name": "correio",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_IDLE_LIMIT = 5_000
"""Milliseconds after which the server ends a transaction whose owner asks for nothing more.

The owner vanished without a word, or stands still; what it had locked waits for that. One that
comes back makes its transaction again.
"""

_END_GHOSTS = f"""
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user
  AND application_name = current_setting('application_name') AND pid <> pg_backend_pid()
  AND state <> 'idle' AND wait_event = 'ClientRead'
  AND now() - state_change > interval '{_IDLE_LIMIT} milliseconds'
"""  # noqa: S608 - a number of our own
"""Ends sessions that wait amid a transaction, or amid a statement, for a process to say more.

A session that has heard half of a statement has no time-out running, so what it has locked would
be locked for as long as its connection stands: for ever, if the process is frozen or something
between has lost it. That for idle transactions does not end each of them either.
"""

_BY_KEY = "; ".join(
    f"SET LOCAL {one} = off"
    for one in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit")
)
"""Keeps the planner from reading a whole table for the sake of a few hundred keys.

It prefers to, by its costs, for tables of some ten thousand rows and wherever its statistics lag
behind the growth: 20 to 30 ms a statement where looking up each key by its index takes 1 to 6.
A statement that has no index to use still runs, at a price that would call the compiler in.
"""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise PostgreSQL's faults as errors of ours; what speaks of the data passes through."""
    try:
        yield
    except _CONFLICT as error:
        raise StoreConflictError(f"PostgreSQL: {type(error).__name__}") from error
    except (psycopg.Error, OSError) as error:
        if not _means_unavailable(error):
            raise
        said = str(error).strip().splitlines()
        raise StoreUnavailableError(
            f"PostgreSQL: {type(error).__name__}: {said[0] if said else 'no details'}"
        ) from error


def _means_unavailable(error: psycopg.Error | OSError) -> bool:
    if isinstance(error, _UNREACHABLE):
        return True
    if error.sqlstate is None:  # the driver's own: its connection, or a value it cannot send
        return isinstance(error, psycopg.OperationalError | psycopg.InternalError)
    return not error.sqlstate.startswith(_ABOUT_DATA)


def connection_values(url: str, *, connect_timeout: float) -> dict[str, Any]:
    """How to connect to the database of `url`; what the URL says itself has precedence.

    A peer that vanished without a word is noticed after about 25 seconds. Nothing is prepared
    and nothing set for a session, so that PgBouncer may share its connections by transaction.
    """
    return {
        **_DEFAULTS,
        "connect_timeout": max(1, int(connect_timeout)),
        **conninfo_to_dict(url),
        "autocommit": True,
        "prepare_threshold": None,
    }


def beginning(*, lock_timeout: float) -> str:
    """How each transaction begins. Its settings end with it.

    The isolation is named because whoever waited for a lock must see what was stored meanwhile,
    whatever the database's default is.

    Args:
        lock_timeout: seconds to wait for another transaction's lock.
    """
    return (
        "BEGIN ISOLATION LEVEL READ COMMITTED; "
        f"SET LOCAL lock_timeout = {int(lock_timeout * 1000)}; "
        f"SET LOCAL idle_in_transaction_session_timeout = {_IDLE_LIMIT}; {_BY_KEY}"
    )


_UNSYNCED = "; SET LOCAL synchronous_commit = off"


class PostgresPart:
    """A part of the store: works over the pool's connections."""

    sealing: Sealing
    _pool: AsyncConnectionPool[Connection]
    _beginning: str

    @contextlib.asynccontextmanager
    async def _transaction(
        self, *, lasting: bool = True, long: bool = False
    ) -> AsyncIterator[Connection]:
        """A connection in a transaction that commits at the end of the block.

        In a `long` one statements may take their time.

        One that is not `lasting` need not be on disk when this returns: a crash of the server may
        undo it. It is so with leases and wake times, without which work is done twice and never
        lost.
        """
        with translated():
            try:
                async with self._connection(long=long) as connection:
                    await execute(connection, self._beginning + ("" if lasting else _UNSYNCED))
                    yield connection
            except errors.LockNotAvailable:
                await self._end_ghosts()
                raise

    async def _end_ghosts(self) -> None:
        with contextlib.suppress(psycopg.Error, OSError):
            async with self._connection() as connection:
                ended = await execute(connection, _END_GHOSTS)
                if ended.rowcount:
                    log.warning("store.ghosts_ended", count=ended.rowcount)

    @contextlib.asynccontextmanager
    async def _connection(self, *, long: bool = False) -> AsyncIterator[Connection]:
        async with self._pool.connection() as connection:
            with connection.patient(LONG) if long else contextlib.nullcontext():
                yield connection

    async def _rows(
        self, query: str, values: Sequence[Any] = (), *, long: bool = False
    ) -> list[TupleRow]:
        """A query in no transaction, for which the planner is free to choose its way."""
        with translated():
            async with self._connection(long=long) as connection:
                return await rows(connection, query, values)

    async def _change(self, query: str, values: Sequence[Any] = (), *, long: bool = False) -> int:
        async with self._transaction(long=long) as connection:
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
        await execute(connection, statement, columns(records))


def marks(query: str) -> str:
    """Values are marked by ``?`` in SQL that both databases read."""
    return query.replace("%", "%%").replace("?", "%s")
