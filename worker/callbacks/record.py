"""Writing back what came of attempts: those that end close together in one transaction.

Their retries are arranged for beside that: a broker that confirms nothing must not keep what has
been delivered from being written, for it would be delivered again once its lease ends.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from msgspec import Struct

from shared import tracing
from shared.logs import LineWriter
from shared.store.rows import AttemptRecord, Delivery, DeliveryState
from worker.callbacks import metrics
from worker.callbacks.attempt import Call
from worker.callbacks.decide import Policy, decide
from worker.callbacks.means import Means
from worker.callbacks.outbound import delay
from worker.callbacks.outcomes import (
    EndpointGone,
    RetryableFailure,
    error_of,
    name_of,
    status_of,
)

LINE = (
    "delivery_id", "endpoint", "type", "attempt", "outcome", "status", "duration_ms", "state",
    "next_in", "error", "trace_id",
)  # fmt: skip
lines = LineWriter(__name__, "attempt.finished", LINE)

T = TypeVar("T")

GROUP: Final = 200
"""Attempts in one transaction at the most."""


class Finished(Struct, frozen=True):
    """An attempt that has ended and is not written yet."""

    delivery: Delivery
    lease: str
    call: Call


class Recorder:
    """Records attempts, then arranges for their retries."""

    def __init__(self, means: Means, *, gone: Callable[[str], Awaitable[None]]) -> None:
        """`gone` is told of an endpoint that answered 410."""
        self._means = means
        self._gone = gone
        self._policy = Policy.of(means.config)
        self._queue: asyncio.Queue[Finished] = asyncio.Queue()
        self._retries: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def put(self, finished: Finished) -> None:
        """Take an attempt that has ended."""
        self._queue.put_nowait(finished)

    async def drained(self) -> None:
        """Return once everything taken so far is written, and its retries are arranged for."""
        await self._queue.join()
        await self._retries.join()

    async def run(self) -> None:
        """Record until cancelled."""
        async with asyncio.TaskGroup() as both:
            both.create_task(_work_off(self._queue, self._write))
            both.create_task(_work_off(self._retries, self._delay))

    async def _write(self, group: list[Finished]) -> None:
        records = [self._record_of(one) for one in group]
        moved = set(await self._means.patience.insist(lambda: self._means.store.record(records)))
        _tell(group, records)
        for record in records:
            if record.state is DeliveryState.RETRYING and record.delivery_id in moved:
                self._retries.put_nowait((record.delivery_id, record.due_at))
        for endpoint in {
            one.delivery.endpoint for one in group if isinstance(one.call.outcome, EndpointGone)
        }:
            await self._gone(endpoint)

    async def _delay(self, retries: list[tuple[str, int]]) -> None:
        if await self._means.patience.insist(lambda: delay(self._means, dict(retries))):
            return
        while not self._retries.empty():  # the store wakes them: that is how they are recorded
            self._retries.get_nowait()
            self._retries.task_done()

    def _record_of(self, one: Finished) -> AttemptRecord:
        call, delivery, outcome = one.call, one.delivery, one.call.outcome
        decision = decide(
            delivery,
            outcome,
            self._policy,
            now=call.at + call.duration_ms,
            jitter=random.uniform(-1, 1),  # noqa: S311 - spreads load, protects nothing
        )
        return AttemptRecord(
            delivery_id=delivery.id,
            lease=one.lease,
            number=delivery.attempts + 1,
            at=call.at,
            duration_ms=call.duration_ms,
            outcome=name_of(outcome),
            status=status_of(outcome),
            error=error_of(outcome),
            answer=outcome.answer if isinstance(outcome, RetryableFailure | EndpointGone) else b"",
            state=decision.state,
            due_at=decision.due_at,
        )


async def _work_off(
    queue: asyncio.Queue[T], work: Callable[[list[T]], Coroutine[Any, Any, None]]
) -> None:
    """Do what is at hand together, again and again."""
    while True:
        group = [await queue.get()]
        while len(group) < GROUP and not queue.empty():
            group.append(queue.get_nowait())
        await work(group)
        for _ in group:
            queue.task_done()


def _tell(group: Sequence[Finished], records: Sequence[AttemptRecord]) -> None:
    """The one log line of each attempt, and their figures."""
    lines.write(_line(one, record) for one, record in zip(group, records, strict=True))
    for one, record in zip(group, records, strict=True):
        _count(one, record)
        if tracing.is_sampled(one.delivery.traceparent):
            tracing.record(_span(one.delivery, record))


def _line(one: Finished, record: AttemptRecord) -> tuple[object, ...]:
    """What is told of an attempt, in the order of `LINE`."""
    delivery = one.delivery
    retrying = record.state is DeliveryState.RETRYING
    ended = record.at + record.duration_ms
    return (
        delivery.id, delivery.endpoint, delivery.type, record.number, record.outcome,
        record.status, record.duration_ms, record.state.value,
        round((record.due_at - ended) / 1000, 1) if retrying else None, record.error or None,
        tracing.trace_id(delivery.traceparent),
    )  # fmt: skip


def _span(delivery: Delivery, record: AttemptRecord) -> tracing.Span:
    return tracing.Span(
        "call endpoint",
        kind="client",
        traceparent=delivery.traceparent,
        began=record.at,
        ended=record.at + record.duration_ms,
        attributes={
            "delivery_id": delivery.id, "endpoint": delivery.endpoint, "type": delivery.type,
            "attempt": record.number, "outcome": record.outcome, "status": record.status,
        },
        failed=record.state is not DeliveryState.DELIVERED,
    )  # fmt: skip


def _count(one: Finished, record: AttemptRecord) -> None:
    delivery, ended = one.delivery, record.at + record.duration_ms
    endpoint = delivery.endpoint
    metrics.attempts(endpoint, delivery.type, record.outcome).inc()
    metrics.ended(endpoint, record.state.value).inc()
    metrics.attempt_seconds(endpoint).observe(record.duration_ms / 1000)
    metrics.LATE_SECONDS.observe(max(0, record.at - delivery.due_at) / 1000)
    if record.state is DeliveryState.DELIVERED:
        metrics.delivery_seconds(endpoint).observe(max(0, ended - delivery.transition_at) / 1000)
