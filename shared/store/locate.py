"""Reading ``store.url``."""

from pathlib import Path

from shared.config import Secret
from shared.errors import ConfigError

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


def sqlite_path(url: Secret) -> Path | None:
    """The file of a ``sqlite:///relative`` or ``sqlite:////absolute`` URL; None for others."""
    text = url.reveal()
    return Path(text.removeprefix(SQLITE)) if text.startswith(SQLITE) else None


def postgres_url(url: Secret) -> str:
    """The URL of a PostgreSQL store.

    Raises:
        ConfigError: it is the URL of no store at all.
    """
    text = url.reveal()
    if not text.startswith(POSTGRES):
        raise ConfigError("store.url: expected sqlite:///path or postgresql://…")
    return text
