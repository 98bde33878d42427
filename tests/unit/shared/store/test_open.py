"""Which store a URL names; nothing is touched before `start`."""

from pathlib import Path

import pytest

from shared.config import Secret, StoreConfig
from shared.errors import ConfigError
from shared.store.locate import sqlite_path
from shared.store.open import open_store
from shared.store.postgres.store import PostgresStore
from shared.store.sqlite.store import SqliteStore


def test_three_slashes_are_relative_and_four_absolute() -> None:
    assert sqlite_path(Secret("sqlite:///var/one.db")) == Path("var/one.db")
    assert sqlite_path(Secret("sqlite:////var/one.db")) == Path("/var/one.db")
    assert sqlite_path(Secret("postgresql://host/one")) is None


async def test_making_a_store_touches_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    lite = open_store(StoreConfig(url=Secret(f"sqlite:///{folder}/one.db")))
    assert isinstance(lite, SqliteStore)
    assert not folder.exists()
    post = open_store(StoreConfig(url=Secret("postgresql://nobody@127.0.0.1:1/none")))
    assert isinstance(post, PostgresStore)
    for one in (lite, post):
        await one.close()


@pytest.mark.parametrize("url", ["mysql://root:hunter2@host/db", "sqlite://one.db", ""])
def test_a_url_that_names_no_store_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url: expected") as raised:
        open_store(StoreConfig(url=Secret(url)))
    assert "hunter2" not in str(raised.value)
