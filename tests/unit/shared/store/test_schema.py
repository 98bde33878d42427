"""Which migrations a store lacks, and which stores are refused."""

import pytest

from shared.errors import SchemaError
from shared.store.schema import Migration, load_migrations, missing, require_current

ONE, TWO = Migration(1, "0001_initial", "CREATE …"), Migration(2, "0002_more", "ALTER …")
KNOWN = [ONE, TWO]


def test_a_new_store_lacks_all_in_order() -> None:
    assert missing({}, KNOWN) == KNOWN


def test_a_store_one_release_behind_lacks_the_newest() -> None:
    assert missing({1: ONE.checksum}, KNOWN) == [TWO]


def test_a_current_store_lacks_nothing() -> None:
    applied = {one.version: one.checksum for one in KNOWN}
    assert missing(applied, KNOWN) == []
    require_current(applied, KNOWN)


def test_an_older_store_is_refused_with_what_to_do() -> None:
    with pytest.raises(SchemaError, match=r"lacks 0002_more; run `correio migrate`"):
        require_current({1: ONE.checksum}, KNOWN)


def test_a_newer_store_is_refused_with_what_to_do() -> None:
    applied = {1: ONE.checksum, 2: TWO.checksum, 3: "…"}
    with pytest.raises(SchemaError, match=r"version 3.*use a newer release"):
        require_current(applied, KNOWN)


def test_a_migration_changed_after_it_was_applied_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"migration 1 was applied with another text"):
        missing({1: "other"}, KNOWN)


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_shipped_migrations_count_up_without_a_gap(dialect: str) -> None:
    versions = [one.version for one in load_migrations(dialect)]
    assert versions == list(range(1, len(versions) + 1))
