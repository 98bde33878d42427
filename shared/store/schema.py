"""Numbered migrations, and the check that a store has exactly those that this release knows."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources

from msgspec import Struct

from shared.errors import SchemaError

REMEDY = "run `correio migrate` of this release"


class Migration(Struct, frozen=True):
    """One step forward; there is no way back."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Digest of the text that was applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations(dialect: str) -> list[Migration]:
    """The migrations of ``sqlite`` or ``postgres``, in order."""
    folder = resources.files("shared.store") / "migrations" / dialect
    files = sorted(
        (one for one in folder.iterdir() if one.name.endswith(".sql")), key=lambda one: one.name
    )
    return [
        Migration(int(one.name.split("_")[0]), one.name.removesuffix(".sql"), one.read_text())
        for one in files
    ]


def missing(applied: Mapping[int, str], known: Sequence[Migration]) -> list[Migration]:
    """The migrations still to apply.

    Args:
        applied: version → checksum, as the store has them.
        known: this release's migrations.

    Raises:
        SchemaError: the store has a migration that this release does not know, or knows otherwise.
    """
    checksums = {one.version: one.checksum for one in known}
    for version, checksum in applied.items():
        if version not in checksums:
            raise SchemaError(
                f"the store's schema has version {version}, which this release does not know; "
                "use a newer release"
            )
        if checksums[version] != checksum:
            raise SchemaError(f"migration {version} was applied with another text; {REMEDY}")
    return [one for one in known if one.version not in applied]


def require_current(applied: Mapping[int, str], known: Sequence[Migration]) -> None:
    """Raise `SchemaError` unless the store has just what this release knows."""
    behind = missing(applied, known)
    if behind:
        raise SchemaError(f"the store lacks {', '.join(one.name for one in behind)}; {REMEDY}")
