"""``python -m worker probe``: one test callback to one endpoint, over the path of every callback.

It is signed, guarded, bounded and judged like any other; nothing is stored, nothing is retried
later, and a 410 disables nothing. The type is `TYPE`, to which no endpoint can subscribe.
"""

import asyncio
from typing import Any

import orjson

from shared.clock import Clock, SystemClock
from shared.config import Config, load_config
from shared.domain.keys import AggregateKey, AggregateKind
from shared.errors import ConfigError
from shared.ids import new_id
from shared.process import EXIT_USAGE
from shared.store.rows import Delivery, DeliveryState
from shared.targets import read_targets
from worker.callbacks.attempt import Caller
from worker.callbacks.guard import Lookup, system_lookup
from worker.callbacks.outcomes import Succeeded, error_of, name_of, status_of

TYPE = "endpoint.test"
FAILED = 1


async def probe(
    config: Config, endpoint: str, *, clock: Clock, lookup: Lookup = system_lookup
) -> dict[str, Any]:
    """Send one test callback and tell what came of it.

    Raises:
        ConfigError: no such endpoint is configured, or it cannot be used.
    """
    target = read_targets(config.endpoint).get(endpoint)
    if target is None:
        raise ConfigError(f"no endpoint {endpoint!r} is configured")
    delivery = _delivery(endpoint, now=clock.now())
    async with Caller(config.callbacks, clock=clock, lookup=lookup) as caller:
        call = await caller.attempt(target, delivery)
    outcome = call.outcome
    return {
        "id": endpoint,
        "webhookId": delivery.id,
        "ok": isinstance(outcome, Succeeded),
        "outcome": name_of(outcome),
        "status": status_of(outcome),
        "durationSeconds": call.duration_ms / 1000,
        "error": error_of(outcome),
    }


def _delivery(endpoint: str, *, now: int) -> Delivery:
    return Delivery(
        id=new_id(),
        endpoint=endpoint,
        type=TYPE,
        state=DeliveryState.PENDING,
        due_at=now,
        attempts=0,
        transition_at=now,
        data=orjson.dumps({"endpoint": endpoint}),
        aggregate=AggregateKey(AggregateKind.LINK, "", ""),
        version=0,
    )


def main(endpoint: str) -> int:
    """Probe by the configuration at hand; print one JSON document. Returns the exit status."""
    try:
        answer = asyncio.run(probe(load_config(), endpoint, clock=SystemClock()))
    except ConfigError as error:
        print(orjson.dumps({"id": endpoint, "ok": False, "error": str(error)}).decode())  # noqa: T201 - the answer
        return EXIT_USAGE
    print(orjson.dumps(answer).decode())  # noqa: T201 - the answer
    return 0 if answer["ok"] else FAILED
