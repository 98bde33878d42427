"""Reading what can still be read of a damaged spool file.

Rows are looked up one by one, since a scan would end at the first damaged page.
"""

from pathlib import Path
from typing import Final, Literal

import apsw
from msgspec import Struct

from receiver.spool_file import IN_CLEAR, Row, read_row
from receiver.spool_key import read_key
from shared.errors import StoreDamagedError, StoreUnavailableError
from shared.sealing import Sealer

LOOKUPS: Final = 1_000
"""Rows looked for in one go."""
IN_VAIN_MAX: Final = 20_000
"""Rows looked for in vain before giving up: the file may not tell its last row, or lie."""


_LOOK_UP = "SELECT received_at, events, checksum, batch FROM batches WHERE seq = ?"
_FIGURES = {
    "min": "SELECT min(seq) FROM batches",
    "max": "SELECT max(seq) FROM batches",
}


class Found(Struct, frozen=True):
    """What one go brought up."""

    rows: list[Row]
    unreadable: int
    done: bool


class Wreck:
    """A damaged file. Its methods block; the file is not changed beyond its own recovery."""

    def __init__(self, path: Path, sealer: Sealer) -> None:
        """Open the file.

        Raises:
            StoreDamagedError: nothing of it can be read.
            StoreUnavailableError: it cannot be opened now.
        """
        self._in_vain = 0
        try:
            self._connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        except apsw.Error as error:
            raise StoreUnavailableError(type(error).__name__) from error
        try:
            # Lets SQLite read a file that is shorter than its header says.
            self._connection.pragma("writable_schema", True)
            self._connection.execute("SELECT 1 FROM batches LIMIT 0").fetchall()
        except apsw.Error as error:
            self._connection.close()
            raise StoreDamagedError(type(error).__name__) from error
        version = self._connection.pragma("user_version")
        try:
            self._box = None if version == IN_CLEAR else read_key(path, sealer)
        except (StoreDamagedError, StoreUnavailableError, OSError):
            self._connection.close()
            raise
        self._reached = (self._figure("min") or 1) - 1
        self._last = self._figure("max")

    def read(self) -> Found:
        """Look for the next rows."""
        rows: list[Row] = []
        unreadable = 0
        end = self._reached + LOOKUPS
        if self._last is not None:
            end = min(end, self._last)
        for seq in range(self._reached + 1, end + 1):
            try:
                row = self._look_up(seq)
            except (apsw.Error, StoreDamagedError):
                unreadable += 1
                row = None
            if row is None:
                self._in_vain += 1
            else:
                self._in_vain = 0
                rows.append(row)
        self._reached = end
        return Found(rows, unreadable, end == self._last or self._in_vain >= IN_VAIN_MAX)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _figure(self, function: Literal["min", "max"]) -> int | None:
        """The first or last row; None when there is none or it cannot be told."""
        try:
            seq: int | None = self._connection.execute(_FIGURES[function]).get
        except apsw.Error:
            return None
        return seq

    def _look_up(self, seq: int) -> Row | None:
        found = self._connection.execute(_LOOK_UP, (seq,)).fetchone()
        return None if found is None else read_row(found, self._box)
