"""Lists of deliveries: the same rows whichever way the store finds them."""

import pytest

from shared.store import lists
from shared.store.lists import DeliveryFilter
from shared.store.port import Store
from shared.store.queries import Queries

STATES = ("pending", "delivered", "exhausted")
TYPES = ("link.created", "consent.authorised")


@pytest.fixture
async def filled(store: Store) -> Queries:
    """Thirty deliveries of two endpoints."""
    aggregate = """
        INSERT INTO aggregates (id, kind, partner_app_id, key, version, status, conflict, link_id,
                                settles, touched_at, updated_at, state)
        VALUES (?, 'link', 'app', ?, 1, '', 0, '', 0, 0, 0, ?)"""
    delivery = """
        INSERT INTO deliveries (id, aggregate_id, version, endpoint, type, state, due_at, wake_at,
                                created_at, updated_at, last_error)
        VALUES (?, ?, 1, ?, ?, ?, 0, 0, ?, 0, ?)"""

    def values(n: int) -> tuple[object, ...]:
        endpoint, error = "erp" if n % 3 == 0 else "crm", "timed out" if n % 4 == 0 else ""
        return f"d{n:02}", n, endpoint, TYPES[n % 2], STATES[n % 5 % 3], n, error

    await store.change([(aggregate, (n, f"l{n}", b"")) for n in range(30)])
    await store.change([(delivery, values(n)) for n in range(30)])
    return Queries(store)


@pytest.mark.parametrize(
    "wanted",
    [
        DeliveryFilter(),
        DeliveryFilter(endpoint="crm"),
        DeliveryFilter(endpoint="nobody"),
        DeliveryFilter(endpoint="crm", states=("exhausted",)),
        DeliveryFilter(endpoint="crm", states=("exhausted", "pending")),
        DeliveryFilter(endpoint="crm", type=TYPES[0]),
        DeliveryFilter(endpoint="erp", error="timed"),
        DeliveryFilter(endpoint="erp", since=5, until=20),
        DeliveryFilter(endpoint="crm", aggregate_id="l1"),
    ],
    ids=str,
)
async def test_a_large_endpoint_has_the_list_of_a_small_one(
    filled: Queries, wanted: DeliveryFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = await filled.deliveries(wanted, limit=7), await filled.count_deliveries(wanted)
    monkeypatch.setattr(lists, "LOOKED_UP", -1)
    large = await filled.deliveries(wanted, limit=7), await filled.count_deliveries(wanted)
    assert small == large
    assert [one.id for one in small[0]] == sorted((one.id for one in small[0]), reverse=True)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_sqlite_reads_a_large_endpoint_in_the_order_of_its_table(
    filled: Queries, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def plan(wanted: DeliveryFilter) -> str:
        where, values = (await filled._planned(wanted)).where()
        query = f"EXPLAIN QUERY PLAN {lists.DELIVERY} WHERE {where} ORDER BY d.id DESC"
        return str(await store.fetch(query, values))

    mixed = DeliveryFilter(endpoint="crm", type=TYPES[0])
    by_state = DeliveryFilter(endpoint="crm", states=("exhausted",))
    assert "deliveries_by_endpoint" in await plan(mixed)
    monkeypatch.setattr(lists, "LOOKED_UP", 3)
    for wanted, index in ((mixed, False), (by_state, True)):
        assert ("deliveries_by_endpoint" in await plan(wanted)) == index
        assert "TEMP B-TREE" not in await plan(wanted)
