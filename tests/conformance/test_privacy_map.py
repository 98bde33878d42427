"""The data map of `deploy/privacy.md`, held against the schema of both stores."""

import re
from pathlib import Path

import msgspec
import pytest

from shared.config import RetentionConfig
from tests.support import books

MAP = (Path(__file__).parents[2] / "deploy" / "privacy.md").read_text()
CELLS = 6
SQLITE = (
    "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c "
    "WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'"
)
POSTGRES = (
    "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
    "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') "
    "AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped"
)


def listed() -> dict[tuple[str, str], list[str]]:
    """(table, column) → the other cells of its row."""
    found = {}
    for section in MAP.split("\n### ")[1:]:
        table, _, text = section.partition("\n")
        for line in text.partition("\n## ")[0].splitlines():
            if line.startswith("| `"):
                column, *rest = (cell.strip() for cell in line.strip("|").split("|"))
                assert (table, column.strip("`")) not in found, line
                found[table, column.strip("`")] = rest
    return found


def test_every_column_is_listed_and_none_too_many(store_url: str) -> None:
    query = SQLITE if store_url.startswith("sqlite") else POSTGRES
    assert sorted(listed()) == sorted(books.fetch(store_url, query))


@pytest.mark.parametrize(("place", "row"), listed().items())
def test_every_row_says_all(place: tuple[str, str], row: list[str]) -> None:
    assert len(row) == CELLS - 1
    assert all(row), place
    _, personal, rests, _, _ = row
    assert personal in ("no", "id", "yes")
    assert rests.split(",")[0] in ("clear", "sealed", "hash", "wrapped")


def test_every_limit_of_the_configuration_is_named_and_no_other() -> None:
    fields = {one.name for one in msgspec.structs.fields(RetentionConfig)}
    limits = {name for name in fields if name.endswith("_days")}
    assert set(re.findall(r"`(\w+_days)`", MAP)) == limits


def test_what_is_personal_and_clear_is_known() -> None:
    """Whoever adds a column that is personal and not sealed has to say so here as well."""
    clear = {place for place, row in listed().items() if row[1:3] == ["yes", "clear"]}
    assert clear == {
        ("attempts", "answer"),  # of releases before sealing
        ("quarantine", "resolved_by"), ("erasures", "reason"), ("audit", "actor"),  # operators
    }  # fmt: skip
