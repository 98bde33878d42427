"""Real stores: SQLite in a file of the test's own, PostgreSQL in a database of the test's own.

With ``CORREIO_TEST_PGBOUNCER`` set, PgBouncer stands before PostgreSQL.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import apsw
import psycopg
import pytest

from deploy.local.postgres import Postgres
from shared.config import Secret, StoreConfig
from shared.store.locate import sqlite_path
from shared.store.migrate import migrate
from shared.store.open import open_store
from shared.store.port import Store
from tests.support.pgbouncer import PgBouncer

_numbers = itertools.count(1)
_behind: dict[str, str] = {}  # where PgBouncer listens → where PostgreSQL does
_TEMPLATE = "migrated"
_TABLES = (
    "aggregates", "events", "payloads", "history", "transitions", "deliveries", "attempts",
    "quarantine", "endpoints", "audit", "samples", "leases", "retention", "data_keys",
    "quarantine_keys", "subjects", "ordered_for", "erasures",
)  # fmt: skip


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server that this test process shares; never stop it."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def _front(postgres: Postgres) -> Iterator[Postgres | PgBouncer]:
    """What tests connect to for a database of the shared server."""
    if not os.environ.get("CORREIO_TEST_PGBOUNCER"):
        yield postgres
        return
    with PgBouncer(postgres, connections=20) as bouncer:
        _behind[f":{bouncer.port}/"] = f":{postgres.port}/"
        yield bouncer


@pytest.fixture
def private_postgres() -> Iterator[Postgres]:
    """A server of the test's own, running, to be stopped and killed; what it confirms stays."""
    with Postgres(durable=True) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def empty_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a store without any schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = f"test_{next(_numbers)}"
    _run(server.url, f"CREATE DATABASE {name}")
    yield _front_of(request).url_of(name)
    _run(server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _template(postgres: Postgres) -> str:
    """A migrated PostgreSQL database, to be copied for each test."""
    _run(postgres.url, f"CREATE DATABASE {_TEMPLATE}")
    asyncio.run(migrate(Secret(postgres.url_of(_TEMPLATE))))
    return _TEMPLATE


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a migrated, empty store."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/store.db"
        asyncio.run(migrate(Secret(url)))
        yield url
        return
    server: Postgres = request.getfixturevalue("postgres")
    template: str = request.getfixturevalue("_template")
    name = f"test_{next(_numbers)}"
    _run(server.url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _front_of(request).url_of(name)
    _run(server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """A store that is migrated, empty and started."""
    opened = open_store(StoreConfig(url=Secret(store_url)))
    await opened.start()
    yield opened
    await opened.close()


def direct(url: str) -> str:
    """The URL of the same database without PgBouncer, for a test that wants a session."""
    for front, server in _behind.items():
        url = url.replace(front, server)
    return url


def _front_of(request: pytest.FixtureRequest) -> Postgres | PgBouncer:
    front: Postgres | PgBouncer = request.getfixturevalue("_front")
    return front


async def empty_tables(url: str) -> None:
    """Make a store empty again, which is quicker than to make a new one."""
    path = sqlite_path(Secret(url))
    if path is None:
        _run(url, f"TRUNCATE {', '.join(_TABLES)}")
        return
    database = apsw.Connection(str(path))
    try:
        database.set_busy_timeout(5000)
        for table in _TABLES:
            database.execute(f"DELETE FROM {table}")
    finally:
        database.close()


def _run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]  # ours, from constants
