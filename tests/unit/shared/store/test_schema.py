"""Which migrations a store lacks, and which stores are refused."""

import pytest

from shared.errors import SchemaError
from shared.store.schema import Applied, Migration, load_migrations, missing, require_current

ONE, TWO = Migration(1, "0001_initial", "CREATE …"), Migration(2, "0002_more", "ALTER …")
KNOWN = [ONE, TWO]
HAS_ONE = {1: Applied(ONE.name, ONE.checksum)}
HAS_BOTH = {**HAS_ONE, 2: Applied(TWO.name, TWO.checksum)}


def test_a_new_store_lacks_all_in_order() -> None:
    assert missing({}, KNOWN) == KNOWN


def test_a_store_one_release_behind_lacks_the_newest() -> None:
    assert missing(HAS_ONE, KNOWN) == [TWO]


def test_a_current_store_lacks_nothing() -> None:
    assert missing(HAS_BOTH, KNOWN) == []
    require_current(HAS_BOTH, KNOWN)


def test_an_older_store_is_refused_with_what_to_do() -> None:
    with pytest.raises(SchemaError, match=r"lacks 0002_more; run `correio migrate`"):
        require_current(HAS_ONE, KNOWN)


def test_a_newer_store_is_refused_with_what_to_do() -> None:
    applied = {**HAS_BOTH, 3: Applied("0003_drop", "…")}
    with pytest.raises(SchemaError, match=r"version 3.*use a newer release"):
        require_current(applied, KNOWN)


def test_a_newer_store_that_was_only_added_to_is_served() -> None:
    applied = {**HAS_BOTH, 3: Applied("0003_more.expand", "…")}
    require_current(applied, KNOWN)
    with pytest.raises(SchemaError, match="use a newer release"):
        require_current({**applied, 4: Applied("0004_drop", "…")}, KNOWN)


def test_a_migration_changed_after_it_was_applied_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"migration 1 was applied with another text"):
        missing({1: Applied(ONE.name, "other")}, KNOWN)


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_shipped_migrations_count_up_without_a_gap(dialect: str) -> None:
    versions = [one.version for one in load_migrations(dialect)]
    assert versions == list(range(1, len(versions) + 1))
