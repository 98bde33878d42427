"""How PostgreSQL finds the rows that a batch asks for, once there are many."""

from collections.abc import Sequence

import psycopg
import pytest

from shared.store.port import Store
from shared.store.postgres import deliveries as callbacks
from shared.store.postgres import events
from shared.store.postgres.parts import rows
from shared.store.postgres.store import PostgresStore

PLENTY = 20_000
GROW = f"""
INSERT INTO aggregates (id, kind, partner_app_id, key, version, status, conflict, link_id, settles,
                        touched_at, updated_at, state)
SELECT n, 'consent', 'app', 'c' || n, 1, 'AUTHORISED', 0, '', 0, 0, 0, ''
FROM generate_series(1, {PLENTY}) AS n;
INSERT INTO events (seq, partner_app_id, event_id, variant, content, type, name, time, label,
                    source, batch_id, received_at)
SELECT n, 'app', 'e' || n, 0, 'c', 'api', 'x', 0, 'applied', 'klavi', 'b', 0
FROM generate_series(1, {PLENTY}) AS n;
INSERT INTO transitions (aggregate_id, version, type, from_status, to_status, at, notified, data)
SELECT n, 1, 'consent.authorised', '', 'AUTHORISED', 0, 1, ''
FROM generate_series(1, {PLENTY}) AS n;
INSERT INTO deliveries (id, aggregate_id, version, endpoint, type, state, due_at, wake_at,
                        created_at, updated_at)
SELECT 'd' || n, n, 1, 'crm', 'consent.authorised', 'pending', 0, 0, 0, 0
FROM generate_series(1, {PLENTY}) AS n;
INSERT INTO data_keys (aggregate_id, wrapped_by, key)
SELECT n, '', '' FROM generate_series(1, {PLENTY}) AS n;
"""


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("analysed", [False, True])
async def test_a_few_keys_are_never_looked_up_by_reading_a_whole_table(
    store: Store, store_url: str, *, analysed: bool
) -> None:
    with psycopg.connect(store_url, autocommit=True) as connection:
        connection.execute(GROW.encode())
        if analysed:
            connection.execute("ANALYZE")
    some = range(1, 501)
    apps, keys, kinds = ["app"] * 500, [f"c{n}" for n in some], ["consent"] * 500
    numbers, blanks = [1] * 500, [b""] * 500
    deliveries = [f"d{n}" for n in some]
    lookups: dict[str, Sequence[object]] = {
        events._FIND_EVENTS: (apps, [f"e{n}" for n in some]),
        events._MAKE_AGGREGATES: (kinds, apps, keys, blanks),
        events._LOCK_AGGREGATES: (kinds, apps, keys),
        events._UPDATE_AGGREGATES: (
            list(some), numbers, apps, numbers, apps, numbers, numbers, numbers, blanks, blanks
        ),
        events._COUNT_DUPLICATES: (list(some), numbers),
        callbacks._LOAD: (deliveries,),
        callbacks._KEYS: (deliveries,),
        callbacks._PARK: (deliveries, numbers),
        callbacks._MOVE: (deliveries, apps, apps, numbers, numbers, apps, apps, numbers),
    }  # fmt: skip
    assert isinstance(store, PostgresStore)
    async with store._transaction() as transaction:
        for statement, values in lookups.items():
            plan = await rows(transaction, f"EXPLAIN {statement}", values)
            assert "Seq Scan" not in str(plan), statement


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("analysed", [False, True])
async def test_a_release_of_a_few_never_sorts_all_that_is_held(
    store: Store, store_url: str, *, analysed: bool
) -> None:
    with psycopg.connect(store_url, autocommit=True) as connection:
        connection.execute(GROW.encode())
        connection.execute("UPDATE deliveries SET state = 'held' WHERE aggregate_id % 2 = 0")
        if analysed:
            connection.execute("ANALYZE")
    values = {"endpoint": "crm", "now": 1, "limit": 10}
    assert isinstance(store, PostgresStore)
    async with store._transaction() as transaction:
        await transaction.execute(callbacks._IN_ORDER)
        found = await transaction.execute(f"EXPLAIN {callbacks._RELEASE_HELD}", values)
        plan = str(await found.fetchall())
    assert "deliveries_to_release" in plan
    assert "Sort" not in plan
