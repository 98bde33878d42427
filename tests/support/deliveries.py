"""Deliveries put straight into a store, and what became of them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from msgspec import Struct

from shared.domain.aggregates import initial
from shared.domain.keys import AggregateKey, AggregateKind
from shared.ids import new_id
from shared.store.port import Store
from shared.store.rows import Aggregate, Changes, DeliveryState, NewDelivery, NewTransition
from tests.support.books import answers, fetch

TYPE = "consent.authorised"


async def seed(
    store: Store,
    *,
    endpoints: Sequence[str],
    due: Sequence[int],
    aggregate: str | None = None,
    type_: str = TYPE,
    state: DeliveryState = DeliveryState.PENDING,
) -> list[str]:
    """One consent with a version for each due time, told to each endpoint; returns the ids."""
    name = aggregate or new_id()
    key = AggregateKey(AggregateKind.CONSENT, "12345678", name)
    changes, ids = Changes(), []
    async with store.transaction() as transaction:
        known = (await transaction.lock_aggregates([key]))[key]
        version = known.version
        for at in due:
            version += 1
            data = {"aggregate": "consent", "id": name, "version": version}
            changes.transitions.append(
                NewTransition(
                    aggregate_id=known.id,
                    version=version,
                    type=type_,
                    from_status="",
                    to_status="AUTHORISED",
                    event_seq=None,
                    at=at,
                    data=orjson.dumps(data),
                    private=orjson.dumps({"name": "João"}),
                )
            )
            for endpoint in endpoints:
                ids.append(new_id())
                changes.deliveries.append(
                    NewDelivery(
                        id=ids[-1],
                        aggregate_id=known.id,
                        version=version,
                        endpoint=endpoint,
                        type=type_,
                        state=state,
                        due_at=at,
                    )
                )
        changes.aggregates.append(Aggregate(known.id, key, version, initial(AggregateKind.CONSENT)))
        await transaction.write(changes)
    return ids


class Row(Struct, frozen=True):
    """What the store says of one delivery."""

    id: str
    endpoint: str
    state: str
    attempts: int
    due_at: int
    wake_at: int
    lease: str | None


def rows(url: str) -> dict[str, Row]:
    """Every delivery by id."""
    found = fetch(
        url, "SELECT id, endpoint, state, attempts, due_at, wake_at, lease FROM deliveries"
    )
    return {one[0]: Row(*one) for one in found}


def attempts(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Delivery id → (number, outcome, status, error, answer, at) of each attempt, in order."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    answered = answers(url)
    for one, *rest in fetch(
        url,
        "SELECT delivery_id, number, outcome, status, error, at FROM attempts "
        "ORDER BY delivery_id, number",
    ):
        number, *said, at = rest
        kept = answered.get((one, number), b"")
        found.setdefault(one, []).append((number, *said, kept, at))
    return found


async def until(condition: Callable[[], bool], *, limit: float = 20, every: float = 0.02) -> None:
    """Return once `condition` holds of what another process or thread changes."""
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(every)


async def until_async(
    condition: Callable[[], Awaitable[bool]], *, limit: float = 20, every: float = 0.05
) -> None:
    """The same for a condition that must be awaited."""
    async with asyncio.timeout(limit):
        while not await condition():
            await asyncio.sleep(every)
