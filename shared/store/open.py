"""Which store a configuration names."""

from shared.config import SealingConfig, StoreConfig
from shared.store.locate import postgres_url, sqlite_path
from shared.store.port import Store
from shared.store.seals import Sealing


def open_store(config: StoreConfig, sealing: SealingConfig | None = None) -> Store:
    """The store that ``store.url`` names; nothing is connected before its `start`.

    Raises:
        ConfigError: the URL names no store, or a key has not the form of one.
    """
    sealed = Sealing(sealing or SealingConfig())
    path = sqlite_path(config.url)
    if path is not None:
        from shared.store.sqlite.store import SqliteStore  # noqa: PLC0415 - load one driver only

        return SqliteStore(path, busy_timeout=config.busy_timeout, sealing=sealed)
    from shared.store.postgres.store import PostgresStore  # noqa: PLC0415 - load one driver only

    postgres_url(config.url)
    return PostgresStore(config, sealing=sealed)
