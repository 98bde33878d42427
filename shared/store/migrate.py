"""``correio migrate``, as far as it concerns the store."""

from shared.config import Secret
from shared.store.locate import postgres_url, sqlite_path


async def migrate(url: Secret) -> list[str]:
    """Bring the store at `url` to this release's schema; return the names of what was applied.

    Safe to run twice, and from two processes at once.

    Raises:
        SchemaError: the store is ahead of this release.
        StoreUnavailableError: the store cannot be reached, or is locked for too long.
        ConfigError: the URL names no store.
    """
    path = sqlite_path(url)
    if path is None:
        from shared.store.postgres.migrate import migrate as migrate_postgres  # noqa: PLC0415 - a SQLite user need not load the PostgreSQL driver

        return await migrate_postgres(postgres_url(url))
    from shared.store.database import SqliteDatabase  # noqa: PLC0415 - and the other way round
    from shared.store.sqlite.migrate import migrate as migrate_sqlite  # noqa: PLC0415 - same

    database = SqliteDatabase(path, busy_timeout=30)
    try:
        return await migrate_sqlite(database)
    finally:
        await database.close()
        database.shutdown()
