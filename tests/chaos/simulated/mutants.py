"""Planted faults: each is a mistake that somebody could make, and that the suite must catch.

A mutant is switched on around whole simulations, by a patch that only tests apply. None may
survive `SEEDS` seeds.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

from msgspec import structs
from pamqp.commands import Basic

from receiver.drain import Drain
from receiver.intake import Intake
from receiver.metrics import Route
from receiver.outlet import messages_of
from receiver.spool import Spool
from shared import erasing
from shared.broker import frames
from shared.broker.burst import Burst
from shared.broker.consumer import Batch as Taken
from shared.domain import aggregates
from shared.eraser import Eraser
from shared.errors import StoreConflictError, StoreUnavailableError
from shared.ids import new_id
from shared.store.database import SqliteDatabase
from shared.store.rows import Changes
from shared.store.sqlite import deliveries, events
from shared.store.sqlite.wipe import SqliteTraces
from worker.callbacks import attempt, consume, payload, record
from worker.callbacks.consume import OPEN_STATES
from worker.events import fold
from worker.events.apply import Applier
from worker.events.pipeline import Pipeline

SEEDS = 300
"""Seeds that a mutant has to get through at the most; most are caught within the first few."""

Mutant = Callable[[], contextlib.AbstractContextManager[object]]


def _acknowledge_before_commit() -> Any:
    real = Pipeline._applied

    async def applied(self: Pipeline, batch: Taken, stop: Any) -> bool:
        await batch.ack()
        return await real(self, batch, stop)

    return mock.patch.object(Pipeline, "_applied", applied)


def _answer_before_confirm() -> Any:
    async def accept(self: Intake, batch: Any) -> Route:
        task = asyncio.ensure_future(self._outlet.send(messages_of(batch)))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return Route.BROKER

    return mock.patch.object(Intake, "accept", accept)


def _answer_before_fsync() -> Any:
    async def append(self: Spool, batch: Any) -> None:
        task = asyncio.ensure_future(real(self, batch))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    real = Spool.append
    return mock.patch.object(Spool, "append", append)


def _spool_without_sync() -> Any:
    """The spool's commits are in the page cache only."""
    real = SqliteDatabase._open

    def careless(self: SqliteDatabase, *, create: bool) -> None:
        real(self, create=create)
        if self._connection is not None and self.path.name.startswith("spool-"):
            self._connection.pragma("synchronous", "NORMAL")

    return mock.patch.object(SqliteDatabase, "_open", careless)


@contextlib.contextmanager
def _forget_mandatory() -> Iterator[None]:
    with mock.patch("shared.broker.frames.MANDATORY", 0):
        frames._publish_frame.cache_clear()
        yield
    frames._publish_frame.cache_clear()


def _ignore_nack() -> Any:
    real = Burst._on_confirm

    async def on_confirm(self: Burst, frame: Basic.Ack | Basic.Nack) -> None:
        await real(self, Basic.Ack(frame.delivery_tag, frame.multiple))

    return mock.patch.object(Burst, "_on_confirm", on_confirm)


def _ignore_returns() -> Any:
    async def on_return(_self: Burst, _frame: Basic.Return) -> None:
        pass

    return mock.patch.object(Burst, "_on_return", on_return)


def _confirm_with_the_first() -> Any:
    """A batch counts as taken when the first of its messages is."""

    def one_is_in(self: Any) -> None:
        if not self.settled.done():
            if self.failure is None:
                self.settled.set_result(None)
            else:
                self.settled.set_exception(self.failure)

    return mock.patch("shared.broker.burst._Waiting.one_is_in", one_is_in)


def _delete_spool_row_before_confirm() -> Any:
    async def move(self: Drain) -> int:
        group = await self._spool.head(max_events=500, max_bytes=1_000_000)
        if group is None:
            return 0
        await self._spool.settle(group)
        messages = [one for stored in group.stored for one in messages_of(stored.batch)]
        await self._outlet.send(messages)
        return len(messages)

    return mock.patch.object(Drain, "_move", move)


def _fold_in_order_of_arrival() -> Any:
    return mock.patch.object(aggregates, "needs_history", return_value=False)


def _retry_without_lease() -> Any:
    sql = deliveries._CLAIM.replace("AND (lease_until IS NULL OR lease_until <= ?4)", "")
    assert sql != deliveries._CLAIM
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(deliveries, "_CLAIM", sql))
    wanted = mock.patch.object(consume, "_is_wanted", lambda one, _: one.state in OPEN_STATES)
    stack.enter_context(wanted)
    return stack


def _commit_without_outbox() -> Any:
    """State first, and what is to be told in a transaction of its own after it."""
    real = Applier._commit

    async def commit(self: Applier, batch: Any) -> Any:
        later = Changes()

        async def write(transaction: Any, changes: Changes) -> None:
            later.deliveries, changes.deliveries = changes.deliveries, []
            await real_write(transaction, changes)

        with mock.patch.object(events.SqliteEventTransaction, "write", write):
            written = await real(self, batch)
        async with self._store.transaction() as transaction:
            await real_write(transaction, later)
        return written

    real_write = events.SqliteEventTransaction.write
    return mock.patch.object(Applier, "_commit", commit)


def _acknowledge_an_unsettled_prefix() -> Any:
    async def ack(self: Taken) -> None:
        if self._subscription is not None:
            await self._subscription.ack(0, self._subscription._delivered)

    return mock.patch.object(Taken, "ack", ack)


def _drop_instead_of_quarantine() -> Any:
    real = fold.sift

    def sift(batch: Any, **more: Any) -> Any:
        return structs.replace(real(batch, **more), unreadable=[])

    return mock.patch.object(fold, "sift", sift)


def _new_id_for_each_attempt() -> Any:
    real = attempt.sign

    def sign(keys: Sequence[bytes], **more: Any) -> dict[str, str]:
        return real(keys, **more | {"webhook_id": new_id()})

    return mock.patch.object(attempt, "sign", sign)


def _new_body_for_each_attempt() -> Any:
    def body_of(delivery: Any) -> bytes:
        now = round(asyncio.get_running_loop().time() * 1000)
        return payload.body_of(structs.replace(delivery, transition_at=now))

    return mock.patch.object(attempt, "body_of", body_of)


def _lose_the_batch_on_shutdown() -> Any:
    real = Pipeline._applied

    async def applied(self: Pipeline, batch: Taken, stop: Any) -> bool:
        return await real(self, batch, stop) or stop.is_set()

    return mock.patch.object(Pipeline, "_applied", applied)


def _swallow_a_store_that_is_away() -> Any:
    real = Applier.work_off

    async def work_off(self: Applier, prepared: Any) -> None:
        with contextlib.suppress(StoreUnavailableError):
            await real(self, prepared)

    return mock.patch.object(Applier, "work_off", work_off)


def _take_a_repetition_for_new() -> Any:
    real = fold.sift

    def sift(batch: Any, *, known: Any, numbers: Any) -> Any:
        apart = {
            ref: [structs.replace(one, content=one.content + "x") for one in found]
            for ref, found in known.items()
        }
        return real(batch, known=apart, numbers=numbers)

    return mock.patch.object(fold, "sift", sift)


def _count_a_failure_as_delivered() -> Any:
    real = record.decide

    def decide(delivery: Any, outcome: Any, *args: Any, **more: Any) -> Any:
        decision = real(delivery, outcome, *args, **more)
        if delivery.attempts:
            return structs.replace(decision, state=record.DeliveryState.DELIVERED)
        return decision

    return mock.patch.object(record, "decide", decide)


def _wake_nothing_twice() -> Any:
    """A message that is lost on the way is lost for good: the store does not wake it again."""
    sql = deliveries._WAKE.replace("max(due_at, ?1) + ?2", "?1 + 1000000000 + ?2 * 0")
    assert sql != deliveries._WAKE
    return mock.patch.object(deliveries, "_WAKE", sql)


def _a_lease_without_end() -> Any:
    """Who dies with a lease takes the delivery along."""
    sql = deliveries._CLAIM.replace("lease_until = ?2", "lease_until = ?2 + 1000000000").replace(
        "wake_at = ?2", "wake_at = ?2 + 1000000000"
    )
    assert sql != deliveries._CLAIM
    return mock.patch.object(deliveries, "_CLAIM", sql)


def _forget_the_retry_after_a_conflict() -> Any:
    real = Applier._apply_together

    async def apply(self: Applier, arrivals: Any) -> Any:
        try:
            return await real(self, arrivals)
        except StoreConflictError:
            raise ValueError from None

    once = mock.patch("worker.events.apply.MAX_CONFLICTS", 1)
    stack = contextlib.ExitStack()
    stack.enter_context(once)
    stack.enter_context(mock.patch.object(Applier, "_apply_together", apply))
    return stack


def _forget_to_erase() -> Any:
    return mock.patch("worker.events.fold.strip")


def _keep_what_comes_after_an_erasure() -> Any:
    def careless(changes: Changes, *args: Any, **more: Any) -> None:
        came = changes.events
        erasing.strip(changes, *args, **more)
        if not changes.erased:
            changes.events = came

    return mock.patch("worker.events.fold.strip", careless)


def _forget_the_quarantine_in_an_erasure() -> Any:
    return mock.patch.object(Eraser, "_empty_quarantine", mock.AsyncMock())


def _leave_the_bytes_of_destroyed_keys() -> Any:
    def nothing(_connection: Any) -> None:
        pass

    stack = contextlib.ExitStack()
    wipe = mock.AsyncMock(return_value={})
    stack.enter_context(mock.patch.object(SqliteTraces, "wipe", wipe))
    stack.enter_context(mock.patch.object(events, "_erase_for_good", nothing))
    return stack


MUTANTS: dict[str, Mutant] = {
    "acknowledge before commit": _acknowledge_before_commit,
    "200 before confirm": _answer_before_confirm,
    "200 before the spool has it": _answer_before_fsync,
    "a spool that does not sync": _spool_without_sync,
    "forget mandatory": _forget_mandatory,
    "ignore a nack": _ignore_nack,
    "ignore a return": _ignore_returns,
    "confirm a batch with its first message": _confirm_with_the_first,
    "delete the spool's row before the confirm": _delete_spool_row_before_confirm,
    "fold in order of arrival": _fold_in_order_of_arrival,
    "retry without a lease": _retry_without_lease,
    "commit without the outbox": _commit_without_outbox,
    "acknowledge an unsettled prefix": _acknowledge_an_unsettled_prefix,
    "drop instead of quarantine": _drop_instead_of_quarantine,
    "a new webhook-id for each attempt": _new_id_for_each_attempt,
    "a new body for each attempt": _new_body_for_each_attempt,
    "lose the batch on shutdown": _lose_the_batch_on_shutdown,
    "take an absent store for success": _swallow_a_store_that_is_away,
    "take a repetition for new": _take_a_repetition_for_new,
    "count a failure as delivered": _count_a_failure_as_delivered,
    "wake nothing twice": _wake_nothing_twice,
    "a lease without end": _a_lease_without_end,
    "forget to erase": _forget_to_erase,
    "keep what comes after an erasure": _keep_what_comes_after_an_erasure,
    "forget the quarantine in an erasure": _forget_the_quarantine_in_an_erasure,
    "leave the bytes of destroyed keys": _leave_the_bytes_of_destroyed_keys,
    "take a conflict for a bad event": _forget_the_retry_after_a_conflict,
}


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Run the code with this mistake in it."""
    with MUTANTS[name]():
        yield
