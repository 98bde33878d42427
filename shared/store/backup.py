"""``correio backup``: a copy of a SQLite store that is whole, made while everything runs."""

import asyncio
from pathlib import Path

import apsw

from shared.config import Secret
from shared.errors import ConfigError
from shared.store.database import SqliteDatabase
from shared.store.locate import sqlite_path


async def back_up(url: Secret, target: Path) -> int:
    """Copy the store at `url` into a new file; return its size in bytes.

    Raises:
        ConfigError: it is no SQLite store, or the file is there already.
        StoreUnavailableError: the store cannot be read, or the file not written.
    """
    path = sqlite_path(url)
    if path is None:
        raise ConfigError("the store is PostgreSQL; back it up with pg_dump, see deploy/README.md")
    if await asyncio.to_thread(target.exists):
        raise ConfigError(f"{target} is there already; a backup never overwrites")
    database = SqliteDatabase(path, busy_timeout=30)

    def copy(connection: apsw.Connection) -> None:
        connection.execute("VACUUM INTO ?", (str(target),))

    try:
        await database.open(create=False)
        await database.run(copy)
    finally:
        await database.close()
        database.shutdown()
    return (await asyncio.to_thread(target.stat)).st_size
