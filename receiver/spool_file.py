"""One spool file: batches in their order, each with a checksum of its own.

SQLite notices a damaged page when it reads the page, but not a flipped bit inside a value;
hence the checksum of each row.
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
from shared.errors import StoreDamagedError
from shared.store.database import SqliteDatabase, immediate

FORMAT: Final = 1
ROW_OVERHEAD: Final = 64
"""Bytes that a row takes beside its batch, roughly."""

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
    """A batch in the form in which it is stored."""

    received_at: int
    events: int
    batch: bytes

    @property
    def bytes(self) -> int:
        """What it takes."""
        return len(self.batch) + ROW_OVERHEAD


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


class Salvaged(Struct, frozen=True):
    """What was saved of a stretch of a damaged file, up to and including row `reached`."""

    rows: list[Row]
    unreadable: int
    reached: int
    done: bool


def pack(batch: Batch) -> Row:
    """The row of a batch."""
    return Row(batch.received_at, len(batch.events), _encode(batch))


class SpoolFile:
    """One open file. Every method may raise the two errors below.

    Raises:
        StoreDamagedError: the file is damaged; put it aside.
        StoreUnavailableError: the disk is full, failing or read-only; the file may be fine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.totals = Totals()
        self._database = SqliteDatabase(path, busy_timeout=BUSY_TIMEOUT)

    async def open(self) -> None:
        """Open the file, made new when there is none, and learn what it holds."""
        async with _damage_named():
            await self._database.open()
            self.totals = await self._database.run(_prepare)

    async def close(self) -> None:
        """Close the file; what was appended stays."""
        await self._database.close()
        self._database.shutdown()

    async def append(self, rows: Sequence[Row]) -> None:
        """Add rows at the end, in one transaction; they would survive a power cut."""
        async with _damage_named():
            await self._database.run(lambda connection: _insert(connection, rows))
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
            return await self._database.run(
                lambda connection: _head(connection, max_events, max_bytes)
            )

    async def remove_through(self, seq: int) -> None:
        """Delete every batch up to and including `seq`."""
        async with _damage_named():
            gone = await self._database.run(lambda connection: _remove(connection, seq))
        held = self.totals
        self.totals = Totals(
            batches=held.batches - gone.batches,
            events=held.events - gone.events,
            bytes=held.bytes - gone.bytes,
            oldest=gone.oldest,
        )

    async def salvage(self, *, after: int, limit: int) -> Salvaged:
        """What can still be read of the `limit` rows that may follow row `after`.

        The file is not changed. To be used on a damaged file, opened with `open_damaged`.
        """
        async with _damage_named():
            return await self._database.run(lambda connection: _salvage(connection, after, limit))

    async def open_damaged(self) -> None:
        """Open a file that was put aside, in order to `salvage` it."""
        async with _damage_named():
            await self._database.open(create=False)


@contextlib.asynccontextmanager
async def _damage_named() -> AsyncIterator[None]:
    try:
        yield
    except apsw.Error as error:
        raise StoreDamagedError(type(error).__name__) from error


def _prepare(connection: apsw.Connection) -> Totals:
    connection.pragma("cache_size", -CACHE_KIB)
    version = connection.pragma("user_version")
    if version == 0:
        with immediate(connection):
            connection.execute(_SCHEMA)
    elif version != FORMAT:
        raise StoreDamagedError(f"format {version}, not {FORMAT}")
    return _totals(connection)


def _totals(connection: apsw.Connection) -> Totals:
    batches, events, size = _figures(connection, through=_SEQ_MAX)
    return Totals(batches=batches, events=events, bytes=size, oldest=_oldest(connection))


def _figures(connection: apsw.Connection, *, through: int) -> tuple[int, int, int]:
    """Batches, events and bytes of the rows up to and including `through`."""
    batches, events, size = connection.execute(
        "SELECT count(*), total(events), total(length(batch)) FROM batches WHERE seq <= ?",
        (through,),
    ).get
    return batches, int(events), int(size) + batches * ROW_OVERHEAD


def _oldest(connection: apsw.Connection) -> int | None:
    oldest: int | None = connection.execute(
        "SELECT received_at FROM batches ORDER BY seq LIMIT 1"
    ).get
    return oldest


def _insert(connection: apsw.Connection, rows: Sequence[Row]) -> None:
    with immediate(connection):
        connection.executemany(
            "INSERT INTO batches (received_at, events, checksum, batch) VALUES (?, ?, ?, ?)",
            [(row.received_at, row.events, zlib.crc32(row.batch), row.batch) for row in rows],
        )


def _head(connection: apsw.Connection, max_events: int, max_bytes: int) -> list[Stored]:
    found: list[Stored] = []
    events = size = 0
    for seq, count, checksum, packed in connection.execute(
        "SELECT seq, events, checksum, batch FROM batches ORDER BY seq"
    ):
        events += count
        size += len(packed)
        if found and (events > max_events or size > max_bytes):
            break
        found.append(Stored(seq, _unpack(packed, checksum)))
    return found


def _remove(connection: apsw.Connection, seq: int) -> Totals:
    """Delete the rows; returns what they were, with the arrival of the first one left."""
    with immediate(connection):
        batches, events, size = _figures(connection, through=seq)
        connection.execute("DELETE FROM batches WHERE seq <= ?", (seq,))
    oldest = _oldest(connection)
    if oldest is None and _size(connection) > _SHRINK_ABOVE:
        connection.execute("VACUUM")
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    return Totals(batches=batches, events=events, bytes=size, oldest=oldest)


def _size(connection: apsw.Connection) -> int:
    pages: int = connection.pragma("page_count")
    each: int = connection.pragma("page_size")
    return pages * each


def _unpack(packed: bytes, checksum: int) -> Batch:
    if zlib.crc32(packed) != checksum:
        raise StoreDamagedError("a row does not fit its checksum")
    try:
        return _decode(packed)
    except msgspec.DecodeError as error:
        raise StoreDamagedError("a row cannot be read") from error


def _salvage(connection: apsw.Connection, after: int, limit: int) -> Salvaged:
    (last,) = connection.execute("SELECT max(seq) FROM batches").fetchone() or (None,)
    rows: list[Row] = []
    unreadable = 0
    end = min(last or 0, after + limit)
    for seq in range(after + 1, end + 1):
        try:
            row = connection.execute(
                "SELECT received_at, events, checksum, batch FROM batches WHERE seq = ?", (seq,)
            ).fetchone()
        except apsw.Error:
            unreadable += 1
            continue
        if row is not None and zlib.crc32(row[3]) == row[2]:
            rows.append(Row(row[0], row[1], row[3]))
        elif row is not None:
            unreadable += 1
    return Salvaged(rows, unreadable, reached=end, done=end == (last or 0))
