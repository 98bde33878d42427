"""Numbered migrations, and the check that a store's schema fits this release.

A migration whose file is named ``….expand.sql`` only adds: the release before it goes on working
on the new schema. So a store is migrated first and the processes are exchanged one by one after
it. What takes something away or changes its meaning comes a release later, without that name,
once no process of the old release runs any more.
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources

from msgspec import Struct

from shared.errors import SchemaError

REMEDY = "run `correio migrate` of this release"


EXPAND = ".expand"


class Applied(Struct, frozen=True):
    """A migration that a store has: its name and the digest of its text."""

    name: str
    checksum: str


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


def missing(applied: Mapping[int, Applied], known: Sequence[Migration]) -> list[Migration]:
    """The migrations still to apply.

    Args:
        applied: by version, as the store has them.
        known: this release's migrations.

    Raises:
        SchemaError: the store has a migration that this release cannot work on, or knows otherwise.
    """
    checksums = {one.version: one.checksum for one in known}
    for version, one in applied.items():
        if version not in checksums:
            if one.name.endswith(EXPAND):
                continue
            raise SchemaError(
                f"the store's schema has version {version}, which this release does not know; "
                "use a newer release"
            )
        if checksums[version] != one.checksum:
            raise SchemaError(f"migration {version} was applied with another text; {REMEDY}")
    return [one for one in known if one.version not in applied]


def require_current(applied: Mapping[int, Applied], known: Sequence[Migration]) -> None:
    """Raise `SchemaError` unless the store has what this release knows, and nothing against it."""
    behind = missing(applied, known)
    if behind:
        raise SchemaError(f"the store lacks {', '.join(one.name for one in behind)}; {REMEDY}")
