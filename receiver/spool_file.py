"""One spool file: batches in their order, each sealed and with a checksum of its own.

SQLite notices a damaged page when it reads the page, but not a flipped bit inside a value;
hence the checksum of each row. The key lies beside the file (`receiver.spool_key`).
"""

import contextlib
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import apsw
import msgspec
from msgspec import Struct

from receiver.batch import Batch
from receiver.spool_key import make_key, read_key
from shared.errors import SealBrokenError, StoreDamagedError
from shared.sealing import SEAL_BYTES, Box, Sealer
from shared.store.database import SqliteDatabase, immediate

FORMAT: Final = 2
IN_CLEAR: Final = 1
"""The format of a release that did not seal; such files are drained, never added to."""
ROW_OVERHEAD: Final = 64
"""Bytes that a row takes beside its batch, roughly."""

_SELECT: Final = "SELECT seq, received_at, events, checksum, batch FROM batches ORDER BY seq"
_SCHEMA: Final = f"""
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY,
    received_at INTEGER NOT NULL,
    events INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    batch BLOB NOT NULL
) STRICT;
PRAGMA user_version = {FORMAT};
"""
_SHRINK_ABOVE: Final = 16_777_216
BUSY_TIMEOUT: Final = 1.0
"""Seconds; nobody else should have the file open for writing."""
CACHE_KIB: Final = 2_048
_SEQ_MAX: Final = 2**63 - 1

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Batch).decode


class Row(Struct, frozen=True):
    """A batch on its way to the disk or back, not sealed."""

    received_at: int
    events: int
    batch: bytes

    @property
    def bytes(self) -> int:
        """What it takes once it is sealed."""
        return len(self.batch) + SEAL_BYTES + ROW_OVERHEAD


def read_row(values: Sequence[object], box: Box | None) -> Row:
    """The row with these values (arrival, events, checksum, batch), if they fit together.

    `box` opens it; None for a file that was not sealed.

    Raises:
        StoreDamagedError: they are not.
    """
    match values:
        case (int() as received_at, int() as events, int() as checksum, bytes() as batch):
            if _checksum(received_at, events, batch) == checksum:
                if box is None:
                    return Row(received_at, events, batch)
                try:
                    return Row(received_at, events, box.unseal(batch, _about(received_at, events)))
                except SealBrokenError as error:
                    raise StoreDamagedError("a row does not open by its key") from error
    raise StoreDamagedError("a row does not fit its checksum")


def _checksum(received_at: int, events: int, stored: bytes) -> int:
    """CRC-32 of the whole row as it is stored."""
    return zlib.crc32(stored, zlib.crc32(_about(received_at, events)))


def _about(received_at: int, events: int) -> bytes:
    return b"%d,%d," % (received_at, events)


class Stored(Struct, frozen=True):
    """A batch read back, and where it stands."""

    seq: int
    batch: Batch


class Totals(Struct, frozen=True):
    """What a file holds; `oldest` is the arrival of its first batch in Unix milliseconds."""

    batches: int = 0
    events: int = 0
    bytes: int = 0
    oldest: int | None = None


def pack(batch: Batch) -> Row:
    """The row of a batch."""
    return Row(batch.received_at, len(batch.events), _encode(batch))


class SpoolFile:
    """One open file. Every method may raise the two errors below.

    Raises:
        StoreDamagedError: the file is damaged; put it aside.
        StoreUnavailableError: the disk is full, failing or read-only; the file may be fine.
    """

    def __init__(self, path: Path, sealer: Sealer) -> None:
        self.path = path
        self._sealer = sealer
        self._box: Box | None = None
        self.totals = Totals()
        self._database = SqliteDatabase(path, busy_timeout=BUSY_TIMEOUT)

    async def open(self) -> None:
        """Open the file, made new when there is none, and learn what it holds."""
        async with _damage_named():
            await self._database.open()
            self.totals = await self._database.run(self._prepare)

    async def close(self) -> None:
        """Close the file; what was appended stays."""
        await self._database.close()
        self._database.shutdown()

    async def append(self, rows: Sequence[Row]) -> None:
        """Add rows at the end, in one transaction; they would survive a power cut."""
        async with _damage_named():
            await self._database.run(lambda connection: _insert(connection, rows, self._box))
        held = self.totals
        self.totals = Totals(
            batches=held.batches + len(rows),
            events=held.events + sum(row.events for row in rows),
            bytes=held.bytes + sum(row.bytes for row in rows),
            oldest=rows[0].received_at if held.oldest is None else held.oldest,
        )

    async def head(self, *, max_events: int, max_bytes: int) -> list[Stored]:
        """The oldest batches, up to these bounds, but at least one if there is any."""
        async with _damage_named():
            found = await self._database.run(
                lambda connection: _head(connection, self._box, max_events, max_bytes)
            )
        if self.totals.batches and not found:
            raise StoreDamagedError("rows have vanished")
        return found

    async def remove(self, stored: Sequence[Stored]) -> None:
        """Delete the oldest batches, as `head` returned them."""
        async with _damage_named():
            gone = await self._database.run(lambda connection: self._remove(connection, stored))
        held = self.totals
        self.totals = Totals(
            batches=held.batches - gone.batches,
            events=held.events - gone.events,
            bytes=held.bytes - gone.bytes,
            oldest=gone.oldest,
        )

    def _prepare(self, connection: apsw.Connection) -> Totals:
        connection.pragma("cache_size", -CACHE_KIB)
        version = connection.pragma("user_version")
        if version == 0:
            self._box = make_key(self.path, self._sealer)
            with immediate(connection):
                connection.execute(_SCHEMA)
        elif version == FORMAT:
            self._box = read_key(self.path, self._sealer)
        elif version != IN_CLEAR:
            raise StoreDamagedError(f"format {version}, not {FORMAT}")
        return _totals(connection, self._box)

    def _remove(self, connection: apsw.Connection, stored: Sequence[Stored]) -> Totals:
        """Delete the rows; with the last of them the key goes that opened them."""
        gone = _remove(connection, stored, self._box)
        if gone.oldest is None and self._box is not None:
            self._box = make_key(self.path, self._sealer)
        return gone


@contextlib.asynccontextmanager
async def _damage_named() -> AsyncIterator[None]:
    try:
        yield
    except (apsw.Error, OverflowError) as error:
        raise StoreDamagedError(type(error).__name__) from error


def _totals(connection: apsw.Connection, box: Box | None) -> Totals:
    batches, events, size = _figures(connection, through=_SEQ_MAX)
    return Totals(batches=batches, events=events, bytes=size, oldest=_oldest(connection, box))


def _figures(connection: apsw.Connection, *, through: int) -> tuple[int, int, int]:
    """Batches, events and bytes of the rows up to and including `through`."""
    batches, events, size = connection.execute(
        "SELECT count(*), total(events), total(length(batch)) FROM batches WHERE seq <= ?",
        (through,),
    ).get
    return batches, int(events), int(size) + batches * ROW_OVERHEAD


def _oldest(connection: apsw.Connection, box: Box | None) -> int | None:
    found = connection.execute(f"{_SELECT} LIMIT 1").fetchone()
    return None if found is None else read_row(found[1:], box).received_at


def _insert(connection: apsw.Connection, rows: Sequence[Row], box: Box | None) -> None:
    values = []
    for row in rows:
        about = _about(row.received_at, row.events)
        stored = row.batch if box is None else box.seal(row.batch, about)
        checksum = _checksum(row.received_at, row.events, stored)
        values.append((row.received_at, row.events, checksum, stored))
    with immediate(connection):
        connection.executemany(
            "INSERT INTO batches (received_at, events, checksum, batch) VALUES (?, ?, ?, ?)",
            values,
        )


def _head(
    connection: apsw.Connection, box: Box | None, max_events: int, max_bytes: int
) -> list[Stored]:
    found: list[Stored] = []
    events = size = 0
    for seq, *values in connection.execute(_SELECT):
        row = read_row(values, box)
        events += row.events
        size += row.bytes
        if found and (events > max_events or size > max_bytes):
            break
        found.append(Stored(seq, _unpack(row)))
    return found


def _remove(connection: apsw.Connection, stored: Sequence[Stored], box: Box | None) -> Totals:
    """Delete the rows; returns what they were, with the arrival of the first one left."""
    last = stored[-1].seq
    with immediate(connection):
        batches, events, size = _figures(connection, through=last)
        connection.execute("DELETE FROM batches WHERE seq <= ?", (last,))
        if not batches == connection.changes() == len(stored):
            raise StoreDamagedError("rows are out of their order")
    oldest = _oldest(connection, box)
    if oldest is None and _size(connection) > _SHRINK_ABOVE:
        # The rows are gone for good; who took that for undone would delete what comes after them.
        with contextlib.suppress(apsw.BusyError, apsw.LockedError, apsw.FullError):
            connection.execute("VACUUM")
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    return Totals(batches=batches, events=events, bytes=size, oldest=oldest)


def _size(connection: apsw.Connection) -> int:
    pages: int = connection.pragma("page_count")
    each: int = connection.pragma("page_size")
    return pages * each


def _unpack(row: Row) -> Batch:
    try:
        return _decode(row.batch)
    except msgspec.DecodeError as error:
        raise StoreDamagedError("a row cannot be read") from error
