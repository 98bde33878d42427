"""The demo: plays the documented events against the whole stack and judges what comes of them."""

import asyncio
import random
import shutil
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from rich.console import Console

from deploy.local import scenario, show
from deploy.local.endpoint import LocalEndpoint
from deploy.local.provide import NamedBroker, find_broker
from deploy.local.rabbitmq import BrokerError, free_port
from deploy.local.settings import (
    PARTNER_APP_ID,
    RECEIVER_PORT_VARIABLE,
    SOURCE,
    EndpointEntry,
    Settings,
    prepare,
)
from deploy.local.stack import Stack, StackError
from deploy.local.verdict import Aggregate, Answer, Observed, judge
from shared.broker.depth import depths
from shared.config import Secret
from shared.errors import TopologyError

ENDPOINT = "demo"
REFUSED_TYPE = "link.created"
REFUSALS = 2
LOST_TYPE = "product.succeeded"
PLAIN_WIDTH = 110
PATIENCE = 20.0
SHORT_PATIENCE = 5.0

# Retries after little more than a second, the shortest delay queue, so that nobody waits; the
# default schedule stretches over a day.
_CALLBACKS = """\
schedule = [1.1, 1.1, 2.0, 4.0, 8.0]
jitter = 0.0
"""


_NO_TRACE: dict[str, Any] = {"events": [], "transitions": [], "deliveries": []}


class Break(StrEnum):
    """What can be broken on purpose, to see that the demo notices."""

    WRONG_SECRET = "wrong-secret"  # noqa: S105 - the name of a fault
    WRONG_ENDPOINT_SECRET = "wrong-endpoint-secret"  # noqa: S105 - the name of a fault
    LOSE_EVENT = "lose-event"
    LOSE_CALLBACK = "lose-callback"
    ENDPOINT_DOWN = "endpoint-down"


class Demo:
    """One run, in a folder of its own."""

    def __init__(self, folder: Path, *, seed: int, broken: Break | None, console: Console) -> None:
        self._folder = folder
        self._seed = seed
        self._broken = broken
        self._console = console
        self._patience = SHORT_PATIENCE if broken else PATIENCE
        down = broken is Break.ENDPOINT_DOWN
        self._endpoint = LocalEndpoint(
            refuse_type=REFUSED_TYPE,
            refusals=1_000 if down else REFUSALS,
            lose_type=LOST_TYPE if broken is Break.LOSE_CALLBACK else None,
        )

    async def run(self, named: str | None) -> bool:
        """Play, look, judge, report; returns whether everything is as it must be.

        Raises:
            StackError: the stack could not be brought up or asked.
            BrokerError: there is no broker.
        """
        await self._endpoint.start()
        try:
            return await self._run(named)
        finally:
            await self._endpoint.stop()

    async def _run(self, named: str | None) -> bool:
        entry = EndpointEntry(id=ENDPOINT, url=self._endpoint.url)
        settings = prepare(self._folder, endpoints=(entry,), overrides={"callbacks": _CALLBACKS})
        self._endpoint.secret = settings.endpoint_secret(ENDPOINT)
        if self._broken is Break.WRONG_ENDPOINT_SECRET:
            self._endpoint.secret = "whsec_" + "A" * 44
        say = self._console.print
        broker = await asyncio.to_thread(
            find_broker, self._folder / "rabbitmq", named=named, say=say
        )
        if isinstance(broker, NamedBroker):
            await _refuse_if_in_use(broker)
        port = free_port()
        async with Stack(
            settings, broker=broker, extra={RECEIVER_PORT_VARIABLE: str(port)}, say=say
        ) as stack:
            seen = await self._play(stack, settings, port)
        if not isinstance(broker, NamedBroker):
            broker.wipe()
        checks = judge(seen)
        show.report(self._console, seen, checks)
        return not any(check.faults for check in checks)

    async def _play(self, stack: Stack, settings: Settings, port: int) -> Observed:
        started = time.monotonic()
        played = scenario.events()
        if self._broken is Break.LOSE_EVENT:
            played.pop()
        batches = scenario.batches(played, seed=self._seed)
        events = sum(map(len, batches))
        self._console.print(
            f"Sending {len(played)} events {scenario.REPEATS} times, shuffled by seed "
            f"{self._seed}: {events} in {len(batches)} signed batches …"
        )
        secret = settings.source_secret
        if self._broken is Break.WRONG_SECRET:
            secret = secret[::-1]
        answers = await _send(batches, secret, f"http://127.0.0.1:{port}/v1/webhooks/{SOURCE}")
        await self._settle(stack, started)
        await stack.stop_children()  # what they held comes back and is counted
        return await self._look(stack, answers)

    async def _settle(self, stack: Stack, started: float) -> None:
        """Wait until all that must be told is told and nothing is under way, or patience ends.

        The broker tells what is ready, not what a worker has in hand: that must be so twice.
        """
        deadline = started + self._patience
        while not self._all_told() and (left := deadline - time.monotonic()) > 0:
            await self._endpoint.wait_news(left)
        idle = 0
        while idle < 2 and time.monotonic() < deadline:  # noqa: PLR2004 - see above
            deliveries = (await _json(stack, "status"))["deliveries"]
            waiting = any(n for state, n in deliveries.items() if state != "delivered")
            idle = 0 if waiting or any((await _depths(stack)).values()) else idle + 1

    def _all_told(self) -> bool:
        told = {(c.aggregate, c.type) for c in self._endpoint.accepted}
        return all((f.aggregate, kind) in told for f in scenario.EXPECTED for kind in f.told)

    async def _look(self, stack: Stack, answers: list[Answer]) -> Observed:
        aggregates = [final.aggregate for final in scenario.EXPECTED]
        return Observed(
            answers=answers,
            callbacks=list(self._endpoint.received),
            refused=self._endpoint.refused,
            states={one: await _state(stack, one) for one in aggregates},
            traces={one: _NO_TRACE | await _json(stack, "trace", one[1]) for one in aggregates},
            status=await _json(stack, "status"),
            depths=await _depths(stack),
            books=await _json(stack, "reconcile"),
            refused_type=REFUSED_TYPE,
            refusals=REFUSALS,
        )


async def _refuse_if_in_use(broker: NamedBroker) -> None:
    """Keep off a broker on which somebody else's Correio works: we would take its messages.

    Raises:
        StackError: queues of ours have messages or consumers there.
    """
    try:
        found = await depths(Secret(broker.url))
    except TopologyError:
        return  # no queues of ours: nobody uses it
    used = [queue.name for queue in found if queue.ready or queue.consumers]
    if used:
        raise StackError(
            f"{', '.join(used)}: in use on {broker.origin}; name a virtual host of the demo's own"
        )


async def _send(batches: list[list[dict[str, Any]]], secret: str, url: str) -> list[Answer]:
    answers: list[Answer] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
        for batch in batches:
            body, headers = scenario.signed(batch, secret)
            async with http.post(url, data=body, headers=headers) as response:
                answer = orjson.loads(await response.read())
                answers.append(Answer(sent=len(batch), status=response.status, body=answer))
    return answers


async def _json(stack: Stack, *arguments: str) -> dict[str, Any]:
    """What a ``correio`` command answers; an empty object when it knows nothing."""
    printed = await stack.correio(*arguments, "--json", answers=(0, 1))
    answer: dict[str, Any] = orjson.loads(printed or b"{}") or {}
    return answer


async def _state(stack: Stack, aggregate: Aggregate) -> dict[str, Any] | None:
    kind, key = aggregate
    answer = await _json(stack, "state", kind.replace("_", "-"), PARTNER_APP_ID, key)
    return answer if "status" in answer else None


async def _depths(stack: Stack) -> dict[str, int]:
    """Messages ready in each queue."""
    return {queue.name: queue.ready for queue in await depths(Secret(stack.broker.url))}


async def demo(*, named: str | None, seed: int | None, broken: Break | None) -> int:
    """Run the demo in a temporary folder, which is kept when something went wrong.

    Returns:
        The exit status: 0 when everything is as it must be.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    started = time.monotonic()
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    folder = Path(tempfile.mkdtemp(prefix="correio-demo-"))
    keep = False
    try:
        fine = await Demo(folder, seed=seed, broken=broken, console=console).run(named)
        keep = not fine
    except (StackError, BrokerError):
        keep = True
        raise
    finally:
        if keep:
            console.print(f"Logs and data are kept in {folder}", soft_wrap=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    took = time.monotonic() - started
    console.print(f"The demo {'succeeded' if fine else 'FAILED'} after {took:.0f} s.")
    return 0 if fine else 1
