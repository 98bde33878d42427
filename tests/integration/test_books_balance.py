"""A machine that delivers, repeats, reorders, crashes and moves the clock, and then audits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from shared.config import Config, EndpointConfig, Secret, StoreConfig
from shared.errors import StoreUnavailableError
from shared.store.open import open_store
from shared.store.port import EventTransaction, Store
from tests.support import books
from tests.support import events as ev
from tests.support.clock import ManualClock
from tests.support.stores import empty_tables
from worker.events.apply import Applier
from worker.events.arrivals import Arrival

CONFIG = Config(endpoint=(EndpointConfig(id="crm", url="http://x", secrets=(Secret("s"),)),))


class Crash(BaseException):
    """The process dies here: nobody handles it, nothing is rolled back by hand."""


class Faulty:
    """A store whose next transaction fails in a chosen way."""

    parallel = 1

    def __init__(self, store: Store) -> None:
        self._store = store
        self.sealing = store.sealing
        self.fault: str | None = None

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[EventTransaction]:
        fault, self.fault = self.fault, None
        if fault == "unavailable":
            raise StoreUnavailableError("planted")
        async with self._store.transaction() as transaction:
            yield transaction
            if fault == "crash before commit":
                raise Crash
        if fault == "crash after commit":
            raise Crash

    async def unsettled(self, *, quiet_since: int, limit: int) -> Any:
        return await self._store.unsettled(quiet_since=quiet_since, limit=limit)


MADE = st.one_of(
    st.builds(
        lambda change, at, eid, consent: ev.event(
            f"consent_{change}", at=at, event_id=eid, consentId=consent
        ),
        st.sampled_from(["authorised", "error", "rejected", "revoked", "deleted_by_user"]),
        st.integers(0, 9), st.sampled_from("abcdef"), st.sampled_from(["c1", "c2"]),
    ),
    st.builds(lambda at: ev.event("link_created", at=at), st.integers(0, 3)),
    st.builds(
        lambda kind, at: ev.event(f"product_generated_{kind}", at=at),
        st.sampled_from(["success", "failed"]), st.integers(0, 3),
    ),
)  # fmt: skip


class Machine(RuleBasedStateMachine):
    """A queue, a worker and a store. The queue keeps what was not acknowledged."""

    url = ""
    delivered = Bundle("delivered")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.queue: list[Arrival] = []
        self.made: list[dict[str, Any]] = []
        self.clock = ManualClock(ev.EPOCH + 3_600_000)
        self.runner.run(empty_tables(self.url))
        self.store = open_store(StoreConfig(url=Secret(self.url)))
        self.runner.run(self.store.start())
        self.faulty = Faulty(self.store)
        self.applier = Applier(self.faulty, CONFIG, clock=self.clock)

    def teardown(self) -> None:
        try:
            self.work(len(self.queue), None)
            self.judge()
        finally:
            self.runner.run(self.store.close())
            self.runner.close()

    @rule(target=delivered, made=MADE)
    def deliver(self, made: dict[str, Any]) -> dict[str, Any]:
        self.made.append(made)
        self._enqueue(ev.dump(made))
        return made

    @rule(made=delivered)
    def repeat(self, made: dict[str, Any]) -> None:
        self._enqueue(ev.dump(made))

    @rule(made=consumes(delivered))
    def forget(self, made: dict[str, Any]) -> None:
        """The source never repeats this one again."""

    @rule()
    def deliver_something_unreadable(self) -> None:
        self._enqueue(b'{"productName":"pf_loans","requestId":"r"}')

    @rule(random=st.randoms(use_true_random=False))
    def reorder(self, random: Any) -> None:
        random.shuffle(self.queue)

    @rule(
        size=st.integers(1, 5),
        fault=st.sampled_from(
            [None, None, "unavailable", "crash before commit", "crash after commit"]
        ),
    )
    def work(self, size: int, fault: str | None) -> None:
        batch = self.queue[:size]
        if not batch:
            return
        self.faulty.fault = fault
        try:
            self.runner.run(self.applier.apply(batch))
        except (StoreUnavailableError, Crash):
            return  # nothing was acknowledged: the broker delivers all of it again
        self.queue = self.queue[size:]

    @rule(seconds=st.sampled_from([-7_200.0, -1.0, 0.001, 3_600.0, 86_400.0]))
    def move_the_clock(self, seconds: float) -> None:
        if self.clock.now() + seconds * 1000 > ev.EPOCH:
            self.clock.move(seconds)

    @invariant()
    def every_fold_holds(self) -> None:
        books.check(books.read(self.url))

    def _enqueue(self, body: bytes) -> None:
        self.queue.append(Arrival(body, "klavi", "b", self.clock.now()))

    def judge(self) -> None:
        after = books.read(self.url)
        books.check(after)
        books.compare_with_model(after, self.made)
        assert sum(after.labels.values()) == len({ev.dump(one) for one in self.made})
        assert self.runner.run(books.audit_faults(self.url)) == []


@pytest.fixture
def machine(store_url: str) -> type[Machine]:
    class OnThisStore(Machine):
        url = store_url

    return OnThisStore


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def test_the_books_balance_whatever_happens(machine: type[Machine]) -> None:
    run_state_machine_as_test(machine, settings=_settings(12))


@pytest.mark.deep
@pytest.mark.timeout(3_600)
def test_the_books_balance_whatever_happens_deep(machine: type[Machine]) -> None:
    run_state_machine_as_test(machine, settings=_settings(500))
