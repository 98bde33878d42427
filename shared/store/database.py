"""A SQLite database with one owner: a single thread that runs everything, in order.

`apsw` ships a current SQLite; the interpreter's own may lack fixes that matter for WAL.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from shared.errors import StoreConflictError, StoreDamagedError, StoreUnavailableError
from shared.store.checkpoints import Checkpoints

T = TypeVar("T")

_UNAVAILABLE = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.FullError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.ProtocolError,
    apsw.ConnectionClosedError,
)
_DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.FormatError)
_TAKEN = (apsw.SQLITE_CONSTRAINT_UNIQUE, apsw.SQLITE_CONSTRAINT_PRIMARYKEY)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise SQLite's faults as errors of ours; what speaks of the data itself passes through."""
    try:
        yield
    except _UNAVAILABLE as error:
        raise StoreUnavailableError(f"SQLite: {type(error).__name__}: {error}") from error
    except apsw.ConstraintError as error:
        if error.extendedresult not in _TAKEN:  # type: ignore[attr-defined]  # apsw's stubs lack it
            raise
        raise StoreConflictError(f"SQLite: {error}") from error
    except _DAMAGED as error:
        raise StoreDamagedError(f"SQLite: {type(error).__name__}: {error}") from error


class SqliteDatabase:
    """Owns one connection in one thread.

    A commit is on disk when it returns (``synchronous=FULL``): it survives loss of power.
    """

    def __init__(
        self, path: Path, *, busy_timeout: float, checkpoints_beside: bool = False
    ) -> None:
        """`busy_timeout`: seconds to wait for another process's transaction.

        `checkpoints_beside`: do not let the writer wait for them, see `Checkpoints`.
        """
        self.path = path
        self._checkpoints_beside = checkpoints_beside
        self._checkpoints: Checkpoints | None = None
        self._busy_timeout = busy_timeout
        self._connection: apsw.Connection | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")

    @property
    def is_open(self) -> bool:
        """Whether the connection stands."""
        return self._connection is not None

    async def open(self, *, create: bool = True) -> None:
        """Open the file; opening an open database does nothing.

        Raises:
            StoreUnavailableError: it cannot be opened, or is locked.
            StoreDamagedError: it is no database.
        """
        await self._call(lambda: self._open(create=create))

    async def run(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run `work` in the owner thread, after all that was asked for before.

        It is run to its end even when the caller is cancelled while waiting.
        """

        def owned() -> T:
            if self._connection is None:
                raise StoreUnavailableError("SQLite: not open")
            return work(self._connection)

        return await self._call(owned)

    async def cut_log(self) -> None:
        """Move all of the write-ahead log into the database and cut it off.

        Raises:
            StoreUnavailableError: somebody reads or writes.
        """

        def cut(connection: apsw.Connection) -> None:
            if self._checkpoints is not None:
                self._checkpoints.settle()
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
            if busy:
                raise StoreUnavailableError("SQLite: somebody reads; the log cannot be cut off now")

        await self.run(cut)

    async def close(self) -> None:
        """Close the connection; the database may be opened again."""
        await self._call(self._close)

    def shutdown(self) -> None:
        """End the thread for good."""
        self._thread.shutdown(wait=True)

    async def _call(self, work: Callable[[], T]) -> T:
        with translated():
            ended = asyncio.wrap_future(self._thread.submit(work))
            ended.add_done_callback(_seen)
            return await asyncio.shield(ended)

    def _open(self, *, create: bool) -> None:
        if self._connection is not None:
            return
        flags = apsw.SQLITE_OPEN_READWRITE
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags |= apsw.SQLITE_OPEN_CREATE
        connection = apsw.Connection(str(self.path), flags=flags, statementcachesize=200)
        try:
            connection.set_busy_timeout(int(self._busy_timeout * 1000))
            self._use_wal(connection)
            for pragma in (
                "synchronous = FULL",
                "foreign_keys = ON",
                "temp_store = MEMORY",
                "cache_size = -32768",
            ):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        if self._checkpoints_beside:
            self._checkpoints = Checkpoints(self.path)
            self._checkpoints.follow(connection)

    def _use_wal(self, connection: apsw.Connection) -> None:
        """Switch to the write-ahead log, for which SQLite itself does not wait while busy."""
        for attempt in Retrying(
            retry=retry_if_exception_type(apsw.BusyError),
            wait=wait_random(0.002, 0.02),
            stop=stop_after_delay(self._busy_timeout),
            reraise=True,
        ):
            with attempt:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()

    def _close(self) -> None:
        if self._checkpoints is not None:
            checkpoints, self._checkpoints = self._checkpoints, None
            checkpoints.close()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


@contextlib.contextmanager
def immediate(connection: apsw.Connection) -> Iterator[None]:
    """A write transaction: locked from its start, committed at the end, rolled back on error."""
    begin(connection)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        rollback(connection)
        raise


@contextlib.contextmanager
def unsynced(connection: apsw.Connection) -> Iterator[None]:
    """Commits within the block do not wait for the disk; the next one after it syncs them too."""
    connection.execute("PRAGMA synchronous = NORMAL")
    try:
        yield
    finally:
        connection.execute("PRAGMA synchronous = FULL")


def begin(connection: apsw.Connection) -> None:
    """Start a write transaction, undoing first what a failed rollback may have left open."""
    rollback(connection)
    connection.execute("BEGIN IMMEDIATE")


def rollback(connection: apsw.Connection) -> None:
    """Undo the transaction, if SQLite has not done so already."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _seen(ended: asyncio.Future[T]) -> None:
    """Take note of an error that nobody waits for any more: its caller was cancelled."""
    if not ended.cancelled():
        ended.exception()
