"""A PostgreSQL that says nothing any more, though its connections stand."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from deploy.local.postgres import Postgres
from shared.config import Secret, StoreConfig
from shared.errors import StoreUnavailableError
from shared.store.migrate import migrate
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.postgres import store as module
from shared.store.postgres.store import PostgresStore
from tests.support.proxy import BOTH, Proxy, Weather

LIMIT = 20


@pytest.fixture
async def proxy(private_postgres: Postgres) -> AsyncIterator[Proxy]:
    await migrate(Secret(private_postgres.url))
    async with Proxy(private_postgres.port) as made:
        yield made


@pytest.fixture
async def silent(
    proxy: Proxy, private_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    """A store that reaches the server through the proxy, four of its connections open."""
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    url = private_postgres.url.replace(f":{private_postgres.port}", f":{proxy.port}")
    opened = open_store(StoreConfig(url=Secret(url), busy_timeout=0.1))
    await opened.start()
    await asyncio.gather(*(opened.fetch("SELECT pg_sleep(0.2)") for _ in range(4)))
    yield opened
    await opened.close()


async def test_one_that_has_gone_without_a_word_is_given_up(proxy: Proxy, silent: Store) -> None:
    """Amid a transaction, and the idle connections with it."""

    async def work() -> None:
        async with silent.transaction() as transaction:
            proxy.sever()
            await transaction.reserve(1)

    async with asyncio.timeout(LIMIT):
        with pytest.raises(StoreUnavailableError):
            await work()
        await silent.ping()


async def test_one_that_stands_still_is_given_up(proxy: Proxy, silent: Store) -> None:
    async with asyncio.timeout(LIMIT):
        with proxy.under(Weather(held=BOTH)), pytest.raises(StoreUnavailableError):
            await silent.ping()
        while True:
            try:
                await silent.ping()
            except StoreUnavailableError:
                continue
            break


async def test_an_operators_question_may_take_long(silent: Store) -> None:
    assert await silent.fetch("SELECT 1 FROM pg_sleep(1.5)") == [(1,)]


async def test_a_connection_whose_answers_fit_no_question_is_not_used_again(
    silent: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver gets one too many from a pooler whose database falls over."""

    async def mixed_up(*_what: Any, **_how: Any) -> None:
        raise psycopg.InternalError("received 2 results from command 'COMMIT'")

    used = []

    async def work() -> None:
        assert isinstance(silent, PostgresStore)
        async with silent._transaction() as connection:
            used.append(connection)
            with monkeypatch.context() as patch:
                patch.setattr(psycopg.AsyncConnection, "wait", mixed_up)
                await connection.execute("COMMIT")

    with pytest.raises(StoreUnavailableError):
        await work()
    assert [one.closed for one in used] == [True]
    await silent.ping()
