"""A store over months: what happens, what is delivered, what goes for its age."""

from collections.abc import Sequence
from typing import Any

from shared.clock import SystemClock
from shared.config import Config, EndpointConfig, RetentionConfig, Secret
from shared.eraser import Eraser
from shared.retention import Retention
from shared.store.port import Store
from shared.store.retention import DAY
from shared.store.rows import AttemptRecord, DeliveryState
from tests.support import books
from tests.support import events as ev
from tests.support.clock import ManualClock
from worker.events.apply import Applier
from worker.events.arrivals import Arrival

CONFIG = Config(endpoint=(EndpointConfig(id="crm", url="http://x", secrets=(Secret("s"),)),))
KEPT = RetentionConfig(payload_days=10, attempt_days=10, ended_days=30, deleted_days=90,
                       undelivered_days=60, audit_days=5, sample_days=1,
                       quarantine_open_days=20, quarantine_resolved_days=4,
                       erasure_days=200)  # fmt: skip
TABLES = ("aggregates", "events", "payloads", "history", "transitions", "deliveries", "attempts",
          "data_keys", "subjects", "ordered_for")  # fmt: skip


class Life:
    """A store, a clock, and what one does in the course of months."""

    def __init__(self, store: Store, url: str) -> None:
        self.store, self.url = store, url
        self.clock = ManualClock(SystemClock().now())
        self.applier = Applier(store, CONFIG, clock=self.clock)
        self.eraser = Eraser(store, CONFIG, clock=self.clock)
        self._started = self.clock.now()

    def pass_days(self, days: float) -> None:
        self.clock.move(days * DAY / 1000)

    async def happens(self, *made: dict[str, Any]) -> None:
        now = self.clock.now()
        await self.applier.apply([Arrival(ev.dump(one), "klavi", "b", now) for one in made])
        await self.eraser.work()

    async def deliver(self, state: DeliveryState = DeliveryState.DELIVERED) -> None:
        """Attempt all that waits."""
        now = self.clock.now()
        waiting = [one for (one,) in books.fetch(
            self.url, "SELECT id FROM deliveries WHERE state IN ('pending', 'retrying')"
        )]  # fmt: skip
        await self.attempt(waiting, state=state, at=now)

    async def attempt(self, ids: Sequence[str], *, state: DeliveryState, at: int) -> None:
        claimed = await self.store.claim(ids, lease="L", now=at, lease_until=at + 1000)
        status = 200 if state is DeliveryState.DELIVERED else 500
        await self.store.record([
            AttemptRecord(
                delivery_id=one.id, lease="L", number=one.attempts + 1, at=at, duration_ms=1,
                outcome="x", status=status, error="", answer=b"no", state=state, due_at=at,
            )
            for one in claimed
        ])  # fmt: skip

    async def retain(self, config: RetentionConfig = KEPT) -> dict[str, int]:
        await self.eraser.work()
        removed = await Retention(self.store, config, clock=self.clock).run_now()
        assert removed is not None
        assert await books.audit_faults(self.url) == []
        return {table: count for table, count in removed.items() if count}

    def counts(self) -> dict[str, int]:
        return {one: self.count(one) for one in TABLES}

    def count(self, table: str) -> int:
        return int(books.fetch(self.url, f"SELECT count(*) FROM {table}")[0][0])

    def statuses(self) -> dict[str, str]:
        return dict(books.fetch(self.url, "SELECT key, status FROM aggregates"))
