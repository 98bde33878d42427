"""What the events worker is promised by a store, kept by each of them."""

import asyncio
import contextlib
from pathlib import Path

import apsw
import pytest

from deploy.local.postgres import Postgres
from shared.config import Secret, StoreConfig
from shared.domain import aggregates
from shared.domain.consent import ConsentFact, ConsentState, ConsentStatus
from shared.domain.keys import AggregateKey, Position
from shared.domain.product_request import OrderFact, ProductRequestState
from shared.errors import SchemaError, StoreConflictError, StoreUnavailableError
from shared.store.migrate import migrate
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.rows import (
    Aggregate,
    Changes,
    DeliveryState,
    EventRef,
    FoldedEntry,
    HistoryEntry,
    KnownEvent,
    Label,
    NewDelivery,
    NewEvent,
    NewQuarantined,
    NewTransition,
)
from tests.support import books

CONSENT = AggregateKey("consent", "app", "c1")
LINK = AggregateKey("link", "app", "l1")
REQUEST = AggregateKey("product_request", "app", "r1")
FACT = ConsentFact(ConsentStatus.AUTHORISED, link_id="l1", permissions_granted=("P",))
AT = Position(1_000, 0, "e1", "c0ffee")


def new_event(
    seq: int, event_id: str = "e1", variant: int = 0, owners: tuple[int, ...] = ()
) -> NewEvent:
    return NewEvent(
        seq=seq, ref=EventRef("app", event_id), variant=variant, content="c0ffee", type="api",
        name="consent_authorised", time=1_000, label=Label.APPLIED, source="klavi", batch_id="b",
        received_at=5_000, body=b'{"a":1}', owners=owners,
    )  # fmt: skip


async def store_one(store: Store, event_id: str = "e1") -> int:
    """Store one event about one consent, told to one endpoint; returns the event's number."""
    async with store.transaction() as transaction:
        locked = (await transaction.lock_aggregates([CONSENT]))[CONSENT]
        (seq,) = await transaction.reserve(1)
        version = locked.version + 1
        state = aggregates.step(locked.state, AT, FACT)
        await transaction.write(
            Changes(
                events=[new_event(seq, event_id, owners=(locked.id,))],
                history=[HistoryEntry(locked.id, seq, FACT)],
                aggregates=[Aggregate(locked.id, CONSENT, version, state)],
                transitions=[
                    NewTransition(locked.id, version, "consent.authorised", "", "AUTHORISED", seq,
                                  7, b"{}")
                ],
                deliveries=[
                    NewDelivery(f"d-{event_id}", locked.id, version, "crm", "consent.authorised",
                                DeliveryState.PENDING, 7)
                ],
            )
        )  # fmt: skip
    return seq


async def test_what_is_written_is_found_again(store: Store, store_url: str) -> None:
    seq = await store_one(store)
    async with store.transaction() as transaction:
        ref = EventRef("app", "e1")
        found = await transaction.find_events([ref, EventRef("app", "other")])
        assert found == {ref: [KnownEvent(seq, 0, "c0ffee")]}
        locked = (await transaction.lock_aggregates([CONSENT]))[CONSENT]
        assert locked.version == 1
        assert isinstance(locked.state, ConsentState)
        assert locked.state.permissions_granted == ("P",)
        histories = await transaction.histories([locked.id])
        assert histories == {locked.id: [FoldedEntry(AT, FACT)]}
    assert books.payloads(store_url) == {seq: b'{"a":1}'}
    assert books.fetch(store_url, "SELECT notified FROM transitions") == [(1,)]


async def test_an_aggregate_that_nobody_knows_starts_at_version_nought(store: Store) -> None:
    async with store.transaction() as transaction:
        locked = await transaction.lock_aggregates([REQUEST, CONSENT, LINK])
    assert {key: (one.version, one.state) for key, one in locked.items()} == {
        key: (0, aggregates.initial(key.kind)) for key in (REQUEST, CONSENT, LINK)
    }
    assert len({one.id for one in locked.values()}) == 3


async def test_an_error_in_the_block_leaves_nothing(store: Store, store_url: str) -> None:
    async def fail() -> None:
        async with store.transaction() as transaction:
            await transaction.lock_aggregates([CONSENT])
            (seq,) = await transaction.reserve(1)
            await transaction.write(Changes(events=[new_event(seq)]))
            raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        await fail()
    assert books.fetch(store_url, "SELECT * FROM events") == []
    assert books.fetch(store_url, "SELECT * FROM aggregates") == []
    await store_one(store)


async def test_cancellation_in_the_block_leaves_nothing(store: Store, store_url: str) -> None:
    written = asyncio.Event()

    async def hang() -> None:
        async with store.transaction() as transaction:
            (seq,) = await transaction.reserve(1)
            await transaction.write(Changes(events=[new_event(seq)]))
            written.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await written.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert books.fetch(store_url, "SELECT * FROM events") == []
    await store_one(store)


async def test_numbers_are_fresh_and_ascend(store: Store) -> None:
    first = await store_one(store, "e1")
    async with store.transaction() as transaction:
        numbers = list(await transaction.reserve(5))
    assert numbers == sorted(set(numbers))
    assert numbers[0] > first


async def test_the_same_event_twice_is_a_conflict(store: Store) -> None:
    await store_one(store)

    async def again() -> None:
        async with store.transaction() as transaction:
            (seq,) = await transaction.reserve(1)
            await transaction.write(Changes(events=[new_event(seq)]))

    with pytest.raises(StoreConflictError):
        await again()


async def test_duplicates_are_counted_at_the_event_that_they_repeat(
    store: Store, store_url: str
) -> None:
    seq = await store_one(store)
    for times in (2, 3):
        async with store.transaction() as transaction:
            await transaction.write(Changes(duplicates={seq: times}))
    assert books.fetch(store_url, "SELECT duplicates FROM events") == [(5,)]


def entry(entry_id: str) -> NewQuarantined:
    return NewQuarantined(entry_id, "malformed", "x", "klavi", "b", 1, "content", b"\x00\xff")


async def test_quarantine_counts_what_comes_again_while_it_is_open(
    store: Store, store_url: str
) -> None:
    async def write(changes: Changes) -> None:
        async with store.transaction() as transaction:
            await transaction.write(changes)

    rows = "SELECT id, seen, status FROM quarantine ORDER BY id"
    await write(Changes(quarantined=[entry("q1")]))
    await write(Changes(quarantined=[entry("q2")]))
    assert books.fetch(store_url, rows) == [("q1", 2, "open")]
    await write(Changes(replayed=["q1", "unknown"]))
    await write(Changes(quarantined=[entry("q3")]))
    assert books.fetch(store_url, rows) == [("q1", 2, "replayed"), ("q3", 1, "open")]
    assert books.quarantine_bodies(store_url) == [b"\x00\xff"] * 2


async def test_text_that_the_store_cannot_hold_is_a_data_error(store: Store) -> None:
    bad = NewQuarantined("q", "malformed", "\ud800", "klavi", "b", 1, "content", b"")

    async def write() -> None:
        async with store.transaction() as transaction:
            await transaction.write(Changes(quarantined=[bad]))

    with pytest.raises(Exception) as raised:  # noqa: PT011 - each driver has its own
        await write()
    assert not isinstance(raised.value, StoreUnavailableError | StoreConflictError)
    await store_one(store)


async def test_quiet_requests_without_a_list_are_found(store: Store) -> None:
    async def request(key: AggregateKey, seq_id: str, products: tuple[str, ...]) -> None:
        fact = OrderFact(products=products)
        async with store.transaction() as transaction:
            locked = (await transaction.lock_aggregates([key]))[key]
            (seq,) = await transaction.reserve(1)
            state = aggregates.step(locked.state, AT, fact)
            assert isinstance(state, ProductRequestState)
            await transaction.write(
                Changes(
                    events=[new_event(seq, seq_id)],
                    history=[HistoryEntry(locked.id, seq, fact)],
                    aggregates=[Aggregate(locked.id, key, 1, state)],
                )
            )

    await request(REQUEST, "e1", ("all",))
    await request(AggregateKey("product_request", "app", "r2"), "e2", ("pf_loans",))
    assert await store.unsettled(quiet_since=4_999, limit=10) == []
    assert await store.unsettled(quiet_since=5_000, limit=10) == [REQUEST]


async def test_locks_taken_in_opposite_order_never_deadlock_nor_lose_an_update(
    store_url: str,
) -> None:
    keys = [AggregateKey("consent", "app", f"c{i}") for i in range(8)]
    stores = [open_store(StoreConfig(url=Secret(store_url), busy_timeout=30)) for _ in range(3)]
    for one in stores:
        await one.start()

    async def bump(store: Store, turn: int) -> None:
        async with store.transaction() as transaction:
            wanted = keys if turn % 2 else keys[::-1]
            locked = await transaction.lock_aggregates(wanted)
            await transaction.write(
                Changes(
                    aggregates=[
                        Aggregate(one.id, one.key, one.version + 1, one.state)
                        for one in locked.values()
                    ]
                )
            )

    async with asyncio.timeout(60):
        await asyncio.gather(*(bump(stores[turn % 3], turn) for turn in range(20)))
    for one in stores:
        await one.close()
    assert books.fetch(store_url, "SELECT version FROM aggregates") == [(20,)] * 8


async def test_migrating_twice_and_at_once_changes_nothing(empty_store_url: str) -> None:
    url = Secret(empty_store_url)
    first = await asyncio.gather(*(migrate(url) for _ in range(3)))
    assert sorted(map(len, first))[:2] == [0, 0]
    assert await migrate(url) == []
    store = open_store(StoreConfig(url=url))
    await store.start()
    await store.ping()
    await store.close()


async def test_a_store_without_schema_is_refused_with_the_remedy(empty_store_url: str) -> None:
    if empty_store_url.startswith("sqlite"):
        apsw.Connection(empty_store_url.removeprefix("sqlite:///")).close()
    store = open_store(StoreConfig(url=Secret(empty_store_url)))
    with pytest.raises(SchemaError, match="correio migrate"):
        await store.start()
    await store.close()


async def test_a_schema_from_the_future_is_refused(store_url: str) -> None:
    store = open_store(StoreConfig(url=Secret(store_url)))
    await store.start()
    await store.change([
        ("INSERT INTO schema_migrations (version, name, checksum) VALUES (999, 'x', 'y')", ())
    ])  # fmt: skip
    await store.close()
    again = open_store(StoreConfig(url=Secret(store_url)))
    with pytest.raises(SchemaError, match="999"):
        await again.start()
    await again.close()
    with pytest.raises(SchemaError, match="999"):
        await migrate(Secret(store_url))


async def test_a_locked_sqlite_file_is_unavailable_and_heals(tmp_path: Path) -> None:
    url = Secret(f"sqlite:///{tmp_path}/store.db")
    await migrate(url)
    store = open_store(StoreConfig(url=url, busy_timeout=0.05))
    await store.start()
    other = apsw.Connection(str(tmp_path / "store.db"))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="Busy"):
        await store_one(store)
    with pytest.raises(StoreUnavailableError):
        await store.ping()
    other.execute("ROLLBACK")
    other.close()
    await store.ping()
    await store_one(store)
    await store.close()


async def test_a_missing_sqlite_file_is_unavailable(tmp_path: Path) -> None:
    store = open_store(StoreConfig(url=Secret(f"sqlite:///{tmp_path}/none.db")))
    with pytest.raises(StoreUnavailableError):
        await store.start()
    await store.close()


async def test_a_full_sqlite_file_is_unavailable_not_a_fault_of_the_data(tmp_path: Path) -> None:
    url = Secret(f"sqlite:///{tmp_path}/store.db")
    await migrate(url)
    store = open_store(StoreConfig(url=url))
    await store.start()
    ((pages,),) = await store.fetch("PRAGMA page_count")
    await store.fetch(f"PRAGMA max_page_count = {pages}")

    async def fill() -> None:
        for number in range(1_000):
            await store_one(store, f"e{number}")

    with pytest.raises(StoreUnavailableError, match="Full"):
        await fill()
    await store.fetch("PRAGMA max_page_count = 1000000")
    await store_one(store, "afterwards")
    await store.close()


async def test_a_postgres_that_goes_away_is_unavailable_and_heals(
    private_postgres: Postgres,
) -> None:
    url = Secret(private_postgres.url)
    await migrate(url)
    store = open_store(StoreConfig(url=url, connect_timeout=1.0))
    await store.start()
    await store_one(store, "e1")
    await asyncio.to_thread(private_postgres.kill)
    with pytest.raises(StoreUnavailableError):
        await store_one(store, "e2")
    with pytest.raises(StoreUnavailableError):
        await store.ping()
    await asyncio.to_thread(private_postgres.start)
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StoreUnavailableError):
                await store.ping()
                break
    await store_one(store, "e3")
    await store.close()
