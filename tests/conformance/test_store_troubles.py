"""What a store promises when things go wrong, and when several processes share it."""

import asyncio
import contextlib
import os
import struct
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest.mock import AsyncMock

import apsw
import psycopg
import pytest

from shared.config import Secret, StoreConfig
from shared.domain.keys import AggregateKey
from shared.errors import SchemaError, StoreConflictError, StoreUnavailableError
from shared.store.database import SqliteDatabase
from shared.store.migrate import migrate
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.postgres import migrate as migrating
from shared.store.postgres.parts import beginning
from shared.store.rows import Aggregate, Changes, NewQuarantined
from shared.store.schema import load_migrations
from tests.support import books
from tests.support.stores import direct

KEY = AggregateKey("consent", "app", "c1")
MIGRATE = """
import asyncio, sys
from shared.config import Secret
from shared.store.migrate import migrate
print(len(asyncio.run(migrate(Secret(sys.argv[1])))))
"""

Opener = Callable[..., Store]


@pytest.fixture
async def opener(store_url: str) -> AsyncIterator[Opener]:
    """Makes more stores on the test's URL, as other processes would; closes them afterwards."""
    opened: list[Store] = []

    def make(*, busy_timeout: float = 5.0) -> Store:
        config = StoreConfig(url=Secret(store_url), busy_timeout=busy_timeout)
        opened.append(open_store(config))
        return opened[-1]

    yield make
    for one in opened:
        await one.close()


only_postgres = pytest.mark.parametrize("store_url", ["postgres"], indirect=True)


def entry(number: str, *, content: str = "content") -> Changes:
    return Changes(
        quarantined=[NewQuarantined(number, "malformed", "x", "klavi", "b", 1, content, b"")]
    )


async def write(store: Store, changes: Changes) -> None:
    async with store.transaction() as transaction:
        await transaction.write(changes)


async def bump(store: Store) -> None:
    """Count the aggregate's version up by one."""
    async with store.transaction() as transaction:
        one = (await transaction.lock_aggregates([KEY]))[KEY]
        await transaction.write(
            Changes(aggregates=[Aggregate(one.id, KEY, one.version + 1, one.state)])
        )


def sessions_of(url: str, command: str) -> None:
    """Run a command on the database of `url`, then end every session of its stores."""
    with psycopg.connect(direct(url), autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(command.format(name=name).encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = %s AND pid <> pg_backend_pid()",
            [name],
        )


async def test_one_who_gives_up_waiting_leaves_nothing_behind(opener: Opener) -> None:
    holder, waiting = opener(), opener(busy_timeout=1.0)
    for one in (holder, waiting):
        await one.start()
    async with holder.transaction() as transaction:
        await transaction.lock_aggregates([KEY])
        task = asyncio.create_task(bump(waiting))
        assert (await asyncio.wait([task], timeout=0.3))[1] == {task}
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await bump(waiting)
    await bump(holder)


async def test_one_who_waits_too_long_is_told_that_the_store_is_unavailable(
    opener: Opener, store_url: str
) -> None:
    holder, waiting = opener(), opener(busy_timeout=0.1)
    for one in (holder, waiting):
        await one.start()
    await bump(holder)
    async with holder.transaction() as transaction:
        await transaction.lock_aggregates([KEY])
        with pytest.raises(StoreUnavailableError):
            await bump(waiting)
    await bump(waiting)
    assert books.fetch(store_url, "SELECT version FROM aggregates") == [(2,)]


async def test_asked_about_nothing_a_store_answers_nothing(store: Store) -> None:
    async with store.transaction() as transaction:
        assert await transaction.find_events([]) == {}
        assert await transaction.lock_aggregates([]) == {}
        assert await transaction.histories([]) == {}
        assert list(await transaction.reserve(0)) == []
        await transaction.write(Changes())
    assert await store.claim([], lease="L", now=1, lease_until=2) == []
    assert await store.record([]) == []
    assert await store.load([]) == []
    await store.park({})
    await store.release_leases([], lease="L", now=1)
    assert await store.change([]) == []


async def test_an_aggregate_locked_twice_in_a_transaction_is_the_same(store: Store) -> None:
    other = AggregateKey("link", "app", "l1")
    async with store.transaction() as transaction:
        first = await transaction.lock_aggregates([KEY])
        second = await transaction.lock_aggregates([KEY, other])
    assert second[KEY] == first[KEY]
    assert second[other].id != first[KEY].id


async def test_statements_of_an_operator_take_effect_together(store: Store) -> None:
    insert = "INSERT INTO endpoints (id, status, reason, changed_at) VALUES (?, 'paused', '50%', 1)"
    with pytest.raises(StoreConflictError):
        await store.change([(insert, ("a",)), (insert, ("a",))])
    assert await store.fetch("SELECT id FROM endpoints") == []
    update = "UPDATE endpoints SET reason = ? WHERE reason LIKE '50%'"
    assert await store.change([(insert, ("a",)), (insert, ("b",)), (update, ("?",))]) == [1, 1, 2]
    assert await store.fetch("SELECT id FROM endpoints WHERE reason = ?", ("?",)) == [
        ("a",), ("b",)
    ]  # fmt: skip


async def test_processes_that_migrate_at_once_do_it_once(empty_store_url: str) -> None:
    root = Path(__file__).parents[2]
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", MIGRATE, empty_store_url, cwd=root,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(4)
    ]  # fmt: skip
    ended = await asyncio.gather(*(one.communicate() for one in processes))
    assert [complaints.decode() for _, complaints in ended] == [""] * 4
    counts = sorted(int(printed) for printed, _ in ended)
    assert counts[:3] == [0, 0, 0]
    assert counts[3] > 0


@only_postgres
async def test_a_session_ended_by_the_server_loses_nothing_but_its_transaction(
    store: Store, store_url: str
) -> None:
    async def ended() -> None:
        async with store.transaction() as transaction:
            await transaction.write(entry("lost"))
            sessions_of(store_url, "SELECT 1")
            await transaction.write(entry("never"))

    with pytest.raises(StoreUnavailableError):
        await ended()
    await write(store, entry("kept"))
    assert books.fetch(store_url, "SELECT id FROM quarantine") == [("kept",)]


@only_postgres
async def test_a_standby_is_unavailable_and_heals_when_promoted(
    store: Store, store_url: str
) -> None:
    sessions_of(store_url, "ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(StoreUnavailableError, match="read-only"):
        await store.ping()
    with pytest.raises(StoreUnavailableError, match="read-only"):
        await write(store, entry("q"))
    with psycopg.connect(direct(store_url), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(
            f"ALTER DATABASE {connection.info.dbname} RESET default_transaction_read_only".encode()
        )
    sessions_of(store_url, "SELECT 1")
    await store.ping()
    await write(store, entry("q"))


@only_postgres
async def test_a_store_that_cannot_be_connected_to_says_why(store_url: str) -> None:
    url = Secret(direct(store_url).rpartition("/")[0] + "/nobody")
    store = open_store(StoreConfig(url=url, connect_timeout=0.5))
    with pytest.raises(StoreUnavailableError, match='database "nobody" does not exist'):
        await store.start()
    await store.close()


@only_postgres
async def test_no_update_is_lost_whatever_isolation_the_database_prefers(
    opener: Opener, store_url: str
) -> None:
    sessions_of(
        store_url, "ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
    )
    stores = [opener(busy_timeout=30) for _ in range(2)]
    for one in stores:
        await one.start()
    await asyncio.gather(*(bump(stores[turn % 2]) for turn in range(20)))
    assert books.fetch(store_url, "SELECT version FROM aggregates") == [(20,)]


HALF_ASKED = (
    b"P" + struct.pack("!i", 17) + b"\0SELECT $1\0" + b"\0\0" + b"B" + struct.pack("!i", 999)
)
"""A statement of which the server has the text and waits for the values."""


@only_postgres
@pytest.mark.parametrize("said", [b"", HALF_ASKED[:9], HALF_ASKED])
async def test_what_a_vanished_process_had_locked_is_free_within_seconds(
    store: Store, store_url: str, said: bytes
) -> None:
    """Its connection stands and is silent, between two statements or amid one."""
    await bump(store)
    ghost = await psycopg.AsyncConnection.connect(
        direct(store_url), autocommit=True, application_name="correio"
    )
    await ghost.execute(beginning(lock_timeout=1.0))  # type: ignore[arg-type]  # ours
    await ghost.execute("SELECT 1 FROM aggregates FOR UPDATE")
    os.write(ghost.fileno(), said)
    async with asyncio.timeout(25):
        while True:
            with contextlib.suppress(StoreUnavailableError, StoreConflictError):
                await bump(store)
                break
    await ghost.close()
    assert books.fetch(store_url, "SELECT version FROM aggregates") == [(2,)]


@only_postgres
async def test_a_session_is_left_as_it_was_found(store: Store) -> None:
    for _ in range(10):
        await bump(store)
    assert await store.fetch("SELECT name FROM pg_prepared_statements") == []
    assert await store.fetch("SHOW lock_timeout") == [("0",)]
    assert await store.fetch("SHOW idle_in_transaction_session_timeout") == [("0",)]


@only_postgres
async def test_a_text_too_long_for_an_index_is_a_fault_of_the_data(store: Store) -> None:
    long = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(6_000))
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        await write(store, entry("q", content=long))


@only_postgres
async def test_text_sorts_as_python_sorts_it(store: Store, store_url: str) -> None:
    names = ["z", "Z", "é", "e\u0301", "a b", "a-b", "\uffff", "\U0001f600", "0", "10", "9"]
    async with store.transaction() as transaction:
        await transaction.lock_aggregates([AggregateKey("link", "app", one) for one in names])
    found = books.fetch(store_url, "SELECT key FROM aggregates ORDER BY kind, partner_app_id, key")
    assert [one for (one,) in found] == sorted(names)


@only_postgres
async def test_a_new_event_of_an_aggregate_touches_none_of_its_indexes(
    store: Store, store_url: str
) -> None:
    await bump(store)
    with psycopg.connect(direct(store_url)) as connection:
        connection.execute(
            "UPDATE aggregates SET version = 2, status = 'REVOKED', conflict = 1, touched_at = 9, "
            "updated_at = 9, state = 'x'"
        )
        in_place = connection.execute(
            "SELECT pg_stat_get_xact_tuples_hot_updated('aggregates'::regclass)"
        ).fetchone()
    assert in_place == (1,)


@only_postgres
async def test_a_store_of_an_older_release_is_refused_until_it_is_migrated(
    opener: Opener, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    *older, newest = load_migrations("postgres")
    with psycopg.connect(direct(store_url)) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    with monkeypatch.context() as patch:
        patch.setattr(migrating, "load_migrations", lambda _: older)
        patch.setattr(migrating, "make_parts", AsyncMock())
        await migrate(Secret(store_url))
    with pytest.raises(SchemaError, match=f"lacks {newest.name}; run `correio migrate`"):
        await opener().start()
    assert await migrate(Secret(store_url)) == [newest.name]
    await opener().start()


async def test_opening_waits_for_a_writer_that_does_not_use_the_log_yet(tmp_path: Path) -> None:
    """SQLite's own patience does not cover the switch to the write-ahead log."""
    path = tmp_path / "store.db"
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE t (x); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
    database = SqliteDatabase(path, busy_timeout=30)
    opening = asyncio.create_task(database.open())
    done, _ = await asyncio.wait([opening], timeout=0.2)
    assert not done
    other.execute("COMMIT")
    async with asyncio.timeout(10):
        await opening
    assert await database.run(lambda one: one.pragma("journal_mode")) == "wal"
    await database.close()
    database.shutdown()
    other.close()
