"""Checkpoints of SQLite's write-ahead log, made beside the writer.

They move what was committed from the log into the database file. SQLite does this within the commit
that makes the log a thousand pages long. In a large database nearly every row has a page of its own
to be written, and the writer stands still for as long as its own work takes. Here a thread with a
connection of its own does it while the writer goes on.

A log that is written to all the time never comes to its end in this way, and SQLite begins it anew
only there. So once it is long the writer waits once and does the rest itself, which is little.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

import apsw

from shared.logs import get_logger

log = get_logger(__name__)

EACH: Final = 2_000
"""Pages (4 KiB each) that come to the log between two checkpoints."""

LONG: Final = 16_000
"""Pages, 64 MiB, from which on the writer does it itself."""


class Checkpoints:
    """The checkpoints of one open database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside: apsw.Connection | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._running: Future[None] | None = None
        self._last = 0

    def follow(self, connection: apsw.Connection) -> None:
        """Checkpoint what this connection commits; SQLite's own checkpoints are off from now on."""
        connection.set_wal_hook(self._committed)

    def settle(self) -> None:
        """Return when none is under way; call it in the thread of the connection followed."""
        if self._running is not None:
            wait([self._running])

    def close(self) -> None:
        """End the thread and its connection."""
        self._thread.shutdown(wait=True)
        if self._beside is not None:
            self._beside.close()

    def _committed(self, connection: apsw.Connection, _name: str, pages: int) -> int:
        """After a commit: `pages` are in the log."""
        if pages < self._last:  # it was begun anew
            self._last = 0
        if pages - self._last < EACH:
            return apsw.SQLITE_OK
        if pages >= LONG:
            self._last = pages
            self.settle()
            _checkpoint(connection)
        elif self._running is None or self._running.done():
            self._last = pages
            self._running = self._thread.submit(self._checkpoint_beside)
        return apsw.SQLITE_OK

    def _checkpoint_beside(self) -> None:
        with _told():
            if self._beside is None:
                self._beside = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
                self._beside.wal_autocheckpoint(0)
                self._beside.execute("PRAGMA synchronous = FULL").fetchall()
            _checkpoint(self._beside)


def _checkpoint(connection: apsw.Connection) -> None:
    """Move what can be moved; nothing is lost when it fails, it stays in the log."""
    with _told(), contextlib.suppress(apsw.BusyError):  # another process is at it
        connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say what goes wrong, and go on."""
    try:
        yield
    except apsw.Error as error:
        log.warning("sqlite.checkpoint_failed", error=f"{type(error).__name__}: {error}")
