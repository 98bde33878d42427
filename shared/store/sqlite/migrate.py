"""Migrations on SQLite, one process at a time."""

import apsw

from shared.errors import SealingKeyError
from shared.store.database import SqliteDatabase, immediate
from shared.store.schema import Applied, Migration, load_migrations, missing
from shared.store.seals import INDEX_KEY, NO_KEYS
from shared.store.sqlite.parts import rows

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL,
    checksum   TEXT    NOT NULL,
    applied_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
) STRICT
"""


def applied(connection: apsw.Connection) -> dict[int, Applied]:
    """What the database has, by version; empty for a new one.

    Asks by a query: `apsw.Connection.table_exists` answers from what the connection knew of the
    schema when it was opened, and never sees what another process has made since.
    """
    if not rows(connection, "SELECT 1 FROM sqlite_schema WHERE name = 'schema_migrations'"):
        return {}
    found = rows(connection, "SELECT version, name, checksum FROM schema_migrations")
    return {version: Applied(*rest) for version, *rest in found}


def index_key(connection: apsw.Connection) -> bytes:
    """The key for tax ids that the store made for itself."""
    for (key,) in rows(connection, "SELECT key FROM store_keys WHERE name = ?", (INDEX_KEY,)):
        return bytes(key)
    raise SealingKeyError(NO_KEYS)


async def migrate(database: SqliteDatabase) -> list[str]:
    """Apply what is missing in one transaction; return the names applied.

    Raises:
        SchemaError: the database is ahead of this release.
        StoreUnavailableError: it cannot be opened, or another process holds it for too long.
    """
    await database.open()
    known = load_migrations("sqlite")
    return await database.run(lambda connection: _apply(connection, known))


def _apply(connection: apsw.Connection, known: list[Migration]) -> list[str]:
    with immediate(connection):
        connection.execute(_TABLE)
        todo = missing(applied(connection), known)
        for one in todo:
            connection.execute(one.sql)
            connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES (?, ?, ?)",
                (one.version, one.name, one.checksum),
            )
    return [one.name for one in todo]
