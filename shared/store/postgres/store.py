"""The PostgreSQL store: the parts put together over one pool."""

from collections.abc import Sequence
from typing import Any

from shared.config import StoreConfig
from shared.errors import StoreUnavailableError
from shared.store.locate import postgres_url
from shared.store.port import Statement
from shared.store.postgres.columns import register
from shared.store.postgres.deliveries import PostgresDeliveries
from shared.store.postgres.events import PostgresEvents
from shared.store.postgres.link import PATIENCE, Connection
from shared.store.postgres.migrate import applied, index_key
from shared.store.postgres.parts import (
    beginning,
    connection_values,
    execute,
    marks,
    translated,
)
from shared.store.postgres.pool import Pool
from shared.store.postgres.retention import PostgresRetention
from shared.store.postgres.wipe import PostgresTraces
from shared.store.schema import load_migrations, require_current
from shared.store.seals import Sealing


class PostgresStore(PostgresEvents, PostgresDeliveries, PostgresRetention, PostgresTraces):
    """A whole store in one database. Prepares nothing, so PgBouncer may stand between."""

    def __init__(self, config: StoreConfig, *, sealing: Sealing) -> None:
        self.sealing = sealing
        self._known = load_migrations("postgres")
        self._beginning = beginning(lock_timeout=config.busy_timeout)
        self._pool = Pool(
            min_size=1,
            max_size=config.pool_size,
            timeout=config.connect_timeout,
            reconnect_timeout=config.connect_timeout,
            open=False,
            configure=_configure,
            check=Pool.check_connection,
            patience=config.busy_timeout + PATIENCE,
            kwargs=connection_values(
                postgres_url(config.url), connect_timeout=config.connect_timeout
            ),
        )

    async def start(self) -> None:
        """Connect and check the schema.

        Raises:
            StoreUnavailableError: it cannot be reached.
            SchemaError: the schema is not this release's.
        """
        with translated():
            await self._pool.open()
            async with self._pool.connection() as connection:
                require_current(await applied(connection), self._known)
                if not self.sealing.index_key:
                    self.sealing.index_key = await index_key(connection)

    async def ping(self) -> None:
        """Return if the database can be written to right now: a standby cannot."""
        ((read_only,),) = await self._rows("SHOW transaction_read_only")
        if read_only == "on":
            raise StoreUnavailableError("PostgreSQL: the database is read-only")

    async def fetch(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See `shared.store.port.SqlStore`."""
        return await self._rows(marks(query), values, long=True)

    async def change(self, statements: Sequence[Statement]) -> list[int]:
        """See `shared.store.port.SqlStore`."""
        async with self._transaction(long=True) as connection:
            return [
                (await execute(connection, marks(query), values)).rowcount
                for query, values in statements
            ]

    async def close(self) -> None:
        """Disconnect."""
        await self._pool.close()


async def _configure(connection: Connection) -> None:
    register(connection)
