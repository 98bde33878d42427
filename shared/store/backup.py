"""``correio backup``: a copy of a SQLite store, made while everything runs, and its keys apart.

Who keeps the data for years and the keys for days can restore lately; and what was erased since
stays unreadable in every copy of the data whose keys are gone.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import apsw

from shared.config import Secret
from shared.errors import ConfigError, StoreUnavailableError
from shared.store.database import SqliteDatabase, immediate
from shared.store.locate import sqlite_path

KEYS = ".keys"
"""What the name of the keys' file adds to that of the data's."""

TABLES = ("data_keys", "quarantine_keys", "store_keys", "erasures")
"""What goes along with the keys: they, and what was erased, so that a key that was destroyed can be
told from one that is merely missing."""


async def back_up(url: Secret, target: Path) -> int:
    """Copy the store at `url` into a new file, and its keys into one beside it.

    Returns the size of both in bytes.

    Raises:
        ConfigError: it is no SQLite store, or one of the files is there already.
        StoreUnavailableError: the store cannot be read, or a file not written.
    """
    keys = target.with_name(target.name + KEYS)
    await _require_absent(target, keys)

    def copy(connection: apsw.Connection) -> None:
        _make(target)
        connection.execute("VACUUM INTO ?", (str(target),))
        made = apsw.Connection(str(target))
        try:
            made.execute("PRAGMA secure_delete = ON")
            _save(made, keys)
            with immediate(made):
                for table in TABLES:
                    made.execute(f"DELETE FROM main.{table}")  # noqa: S608 - names of our own
        finally:
            made.close()

    await _with_store(url, copy)
    sizes = [await asyncio.to_thread(one.stat) for one in (target, keys)]
    return sum(one.st_size for one in sizes)


async def save_keys(url: Secret, target: Path) -> None:
    """Copy the keys of today into a new file; raises as `back_up` does."""
    await _require_absent(target)
    await _with_store(url, lambda connection: _save(connection, target))


async def restore_keys(url: Secret, source: Path) -> int:
    """Give a restored store the keys of a file; returns how many it lacked.

    Raises:
        ConfigError: it is no SQLite store, or the file is not there.
        StoreUnavailableError: the store cannot be written.
    """
    if not await asyncio.to_thread(source.exists):
        raise ConfigError(f"{source}: no such file")
    count = 0

    def restore(connection: apsw.Connection) -> None:
        nonlocal count
        connection.execute("ATTACH ? AS kept", (str(source),))
        try:
            with immediate(connection):
                before = connection.total_changes()
                connection.execute(
                    "INSERT INTO main.data_keys SELECT k.* FROM kept.data_keys k WHERE EXISTS "
                    "(SELECT 1 FROM main.aggregates a WHERE a.id = k.aggregate_id) "
                    "ON CONFLICT DO NOTHING"
                )
                connection.execute(
                    "INSERT INTO main.quarantine_keys SELECT k.* FROM kept.quarantine_keys k "
                    "WHERE EXISTS (SELECT 1 FROM main.quarantine q WHERE q.id = k.entry_id) "
                    "ON CONFLICT DO NOTHING"
                )
                connection.execute(
                    "INSERT INTO main.store_keys SELECT * FROM kept.store_keys WHERE true "
                    "ON CONFLICT DO UPDATE SET key = excluded.key"
                )
                count = connection.total_changes() - before
                connection.execute(
                    "INSERT INTO main.erasures SELECT * FROM kept.erasures WHERE true "
                    "ON CONFLICT DO NOTHING"
                )
        finally:
            connection.execute("DETACH kept")

    await _with_store(url, restore)
    return count


def _save(connection: apsw.Connection, target: Path) -> None:
    _make(target)
    connection.execute("ATTACH ? AS kept", (str(target),))
    try:
        with immediate(connection):
            for table in TABLES:
                connection.execute(
                    f"CREATE TABLE kept.{table} AS SELECT * FROM main.{table}"  # noqa: S608 - names of our own
                )
    finally:
        connection.execute("DETACH kept")


def _make(target: Path) -> None:
    """An empty file that only its owner reads, never open to others even for a moment."""
    try:
        target.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        raise StoreUnavailableError(f"{target}: {error.strerror}") from error


async def _require_absent(*targets: Path) -> None:
    for target in targets:
        if await asyncio.to_thread(target.exists):
            raise ConfigError(f"{target} is there already; a backup never overwrites")


async def _with_store(url: Secret, work: Callable[[apsw.Connection], None]) -> None:
    path = sqlite_path(url)
    if path is None:
        raise ConfigError("the store is PostgreSQL; back it up with pg_dump, see deploy/README.md")
    database = SqliteDatabase(path, busy_timeout=30)
    try:
        await database.open(create=False)
        await database.run(work)
    finally:
        await database.close()
        database.shutdown()
