"""How PostgreSQL keeps payloads and attempts by the day, and drops the days that are over."""

import asyncio
from unittest.mock import AsyncMock

import psycopg
import pytest

from deploy.local.postgres import Postgres
from shared.clock import SystemClock
from shared.config import Secret, StoreConfig
from shared.errors import StoreUnavailableError
from shared.retention import Retention
from shared.store.lists import DeliveryFilter
from shared.store.migrate import migrate
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.postgres import migrate as migrating
from shared.store.postgres import partitions
from shared.store.queries import Queries
from shared.store.schema import load_migrations
from tests.support import books
from tests.support import events as ev
from tests.support.life import KEPT, Life

postgres_only = pytest.mark.parametrize("store_url", ["postgres"], indirect=True)


@pytest.fixture
async def life(store: Store, store_url: str) -> Life:
    return Life(store, store_url)


def parts(url: str, table: str) -> list[str]:
    return [one for (one,) in books.fetch(
        url,
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        f"WHERE i.inhparent = '{table}'::regclass ORDER BY 1",
    )]  # fmt: skip


@postgres_only
async def test_a_day_that_is_over_goes_by_dropping_its_table(life: Life) -> None:
    assert life.count("payloads_default") == 0
    await life.happens(ev.event("link_created"))
    await life.deliver()
    assert life.count("payloads_default") == life.count("attempts_default") == 0
    before = parts(life.url, "payloads")
    assert len(before) == 1 + 8  # today, a week ahead, and the default
    life.pass_days(12)
    await life.retain()
    left = parts(life.url, "payloads")
    assert len(left) == 1 + 8 + 6  # of the first eight, the two oldest have gone
    assert life.count("payloads") == life.count("attempts") == 0


@postgres_only
async def test_without_room_made_nothing_is_lost_and_all_goes_by_its_age(life: Life) -> None:
    life.pass_days(30)  # nobody has made room for so long
    await life.happens(ev.event("link_created"), ev.event("link_created", at=1, linkId="l2"))
    await life.deliver()
    assert life.count("payloads_default") == life.count("attempts_default") == 2
    await life.retain()  # makes room for the days that are free
    life.pass_days(1)
    await life.happens(ev.event("link_created", at=3, linkId="l3"))
    assert life.count("payloads_default") == 2
    assert life.count("payloads") == 3
    life.pass_days(10)
    assert (await life.retain())["payloads"] == 2
    assert life.count("payloads_default") == 0


@postgres_only
async def test_a_table_in_use_is_left_for_the_next_pass(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long reader, such as a backup, neither is disturbed nor keeps writers waiting."""
    monkeypatch.setattr(partitions, "_TRIES", 3)
    await life.happens(ev.event("link_created"))
    life.pass_days(12)
    with psycopg.connect(life.url) as reader:
        reader.execute("SELECT count(*) FROM payloads")
        passing = asyncio.create_task(Retention(life.store, KEPT, clock=life.clock).run_now())
        for at in range(20):
            async with asyncio.timeout(5):
                await life.happens(ev.event("link_created", at=at + 1, linkId=f"l{at}"))
        with pytest.raises(StoreUnavailableError):
            await passing
    assert (await life.retain())["payloads"] == 1


@postgres_only
async def test_tables_of_keys_in_use_are_not_waited_for_while_others_wait_behind(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_TRIES", 3)
    await life.happens(ev.event("consent_authorised"))
    with psycopg.connect(life.url) as reader:
        reader.execute("SELECT count(*) FROM data_keys")
        wiping = asyncio.create_task(life.store.wipe_all())
        for at in range(20):
            async with asyncio.timeout(5):
                await life.happens(ev.event("link_created", at=at + 1, linkId=f"l{at}"))
        with pytest.raises(StoreUnavailableError, match="LockNotAvailable"):
            await wiping
    await life.store.wipe_all()


@postgres_only
async def test_keys_that_an_older_transaction_still_sees_are_wiped_when_it_has_ended(
    life: Life,
) -> None:
    await life.happens(ev.event("consent_authorised"))
    with psycopg.connect(life.url) as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT count(*) FROM endpoints")
        await life.store.change([("DELETE FROM data_keys WHERE aggregate_id > ?", (0,))])
        with pytest.raises(StoreUnavailableError, match="older transaction still sees"):
            await life.store.wipe_all()
    await life.store.wipe_all()


@postgres_only
async def test_an_aggregate_removed_while_it_is_asked_for_is_made_anew(life: Life) -> None:
    """Between making what is missing and locking it, the old row has gone."""
    await life.happens(ev.event("consent_revoked", linkId=""))
    with psycopg.connect(life.url) as remover:
        remover.execute("DELETE FROM aggregates")
        saying = asyncio.create_task(
            life.happens(ev.event("consent_authorised", at=1, linkId="", event_id="late"))
        )
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while books.fetch(life.url, waits) == [(0,)]:
            await asyncio.sleep(0.01)
        remover.commit()
    await saying
    assert life.count("quarantine") == 0
    assert life.statuses() == {ev.CONSENT: "AUTHORISED"}


async def test_what_was_stored_before_the_tables_were_cut_becomes_their_first_part(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE before")
    url = postgres.url_of("before")
    known = load_migrations("postgres")
    monkeypatch.setattr(migrating, "load_migrations", lambda _: known[:3])
    monkeypatch.setattr(migrating, "make_parts", AsyncMock())
    await migrate(Secret(url))
    monkeypatch.undo()
    now = SystemClock().now()
    with psycopg.connect(url) as connection:
        connection.execute("SELECT setval('event_seqs', 500)")
        connection.execute(
            "INSERT INTO payloads SELECT n, %s - n * 3600000, 'x' FROM generate_series(1, 500) n",
            (now,),
        )
        connection.execute(
            "INSERT INTO attempts SELECT 'd' || n, 1, %s, 1, 'x', 200, '', '' "
            "FROM generate_series(1, 5) n",
            (now,),
        )
    assert (await migrate(Secret(url)))[0] == known[3].name
    assert "payloads_before" in parts(url, "payloads")
    store = open_store(StoreConfig(url=Secret(url)))
    await store.start()
    life = Life(store, url)
    assert life.counts()["payloads"] == 500
    await life.happens(ev.event("link_created"))
    assert life.count("payloads_before") == 501  # today is theirs still
    life.pass_days(9)
    removed = await Retention(store, KEPT, clock=life.clock).run_now()
    assert removed is not None
    assert removed["payloads"] == 0
    life.pass_days(3)
    removed = await Retention(store, KEPT, clock=life.clock).run_now()
    assert removed is not None
    assert (removed["payloads"], removed["attempts"]) == (501, 5)
    await store.close()


@postgres_only
async def test_attempts_are_looked_up_in_the_days_that_can_hold_them(life: Life) -> None:
    await life.happens(ev.event("link_created"))
    life.pass_days(3)
    await life.deliver()
    (row,) = await Queries(life.store).deliveries(DeliveryFilter(), limit=1)
    assert len((await Queries(life.store).attempts_of([row]))[row.id]) == 1
    plan = await life.store.fetch(
        f"EXPLAIN SELECT * FROM attempts WHERE delivery_id = ? AND at >= {life.clock.now()}",
        (row.id,),
    )
    assert str(plan).count("Index Scan") == 6  # the days left of the week made, and the default
