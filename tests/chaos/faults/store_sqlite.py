"""The SQLite store: its lock and its disk."""

import asyncio
from collections.abc import AsyncIterator

import apsw

from shared.config import Secret
from shared.store.locate import sqlite_path
from tests.chaos.catalogue import Chapter
from tests.chaos.stage import Stage

CHAPTER = Chapter(stores=("sqlite",))
WAITS = "work pauses, messages wait in the broker, no attempt is spent"


@CHAPTER.row(
    "store-file-locked",
    fault="somebody else writes to the database file and does not come to an end",
    how="BEGIN IMMEDIATE by another process's connection",
    holds=WAITS,
)
async def locked(stage: Stage) -> AsyncIterator[None]:
    other = apsw.Connection(str(sqlite_path(Secret(stage.world.store))))
    other.set_busy_timeout(10_000)
    await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
    try:
        await stage.paused("events")
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@CHAPTER.row(
    "store-file-disk-full",
    fault="the disk of the database file is full",
    how="tmpfs filled to the last block",
    holds=WAITS,
)
async def disk_full(stage: Stage) -> AsyncIterator[None]:
    with stage.store_disk.full():
        await stage.paused("events")
        yield


@CHAPTER.row(
    "store-file-read",
    fault="somebody reads the database for long, so that its log cannot be folded in",
    how="an open read transaction",
    holds="nothing waits for the reader",
    seconds=3.0,
)
async def read_for_long(stage: Stage) -> AsyncIterator[None]:
    path = str(sqlite_path(Secret(stage.world.store)))
    other = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM events").fetchall()
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()
