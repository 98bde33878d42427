"""Migrations on PostgreSQL, one process at a time by an advisory lock."""

from shared.clock import SystemClock
from shared.errors import SealingKeyError
from shared.store.postgres.link import Connection
from shared.store.postgres.partitions import LOCK, make_parts
from shared.store.postgres.parts import connection_values, execute, rows, translated
from shared.store.schema import Applied, Migration, load_migrations, missing
from shared.store.seals import INDEX_KEY, NO_KEYS

_CONNECT_TIMEOUT = 10.0

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)
"""


async def applied(connection: Connection) -> dict[int, Applied]:
    """What the database has, by version; empty for a new one."""
    ((there,),) = await rows(connection, "SELECT to_regclass('schema_migrations') IS NOT NULL")
    if not there:
        return {}
    found = await rows(connection, "SELECT version, name, checksum FROM schema_migrations")
    return {version: Applied(*rest) for version, *rest in found}


async def index_key(connection: Connection) -> bytes:
    """The key for tax ids that the store made for itself."""
    query = "SELECT key FROM store_keys WHERE name = %s"
    for (key,) in await rows(connection, query, (INDEX_KEY,)):
        return bytes(key)
    raise SealingKeyError(NO_KEYS)


async def migrate(url: str) -> list[str]:
    """Apply what is missing in one transaction; return the names applied.

    Raises:
        SchemaError: the database is ahead of this release.
        StoreUnavailableError: it cannot be reached.
    """
    known = load_migrations("postgres")
    with translated():
        connection = await Connection.connect(
            **connection_values(url, connect_timeout=_CONNECT_TIMEOUT)
        )
        async with connection:
            async with connection.transaction():
                todo = await _apply(connection, known)
            await make_parts(connection, now=SystemClock().now())
    return [one.name for one in todo]


async def _apply(connection: Connection, known: list[Migration]) -> list[Migration]:
    await execute(connection, f"SELECT pg_advisory_xact_lock({LOCK})")
    await execute(connection, _TABLE)
    todo = missing(await applied(connection), known)
    for one in todo:
        await execute(connection, one.sql)
        await execute(
            connection,
            "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
            (one.version, one.name, one.checksum),
        )
    return todo
