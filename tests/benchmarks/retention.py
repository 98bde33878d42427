"""What a pass of retention does to the acknowledgements: ``python -m tests.benchmarks.retention``.

A store is filled with many events, the older half of them in the past; then a receiver takes
batches at a given rate, an events worker beside it, by turns without and with a pass under way.
Afterwards half of the events must be gone and the books must balance.

Each stage also runs by itself on a store that is there already: ``fill``, ``measure`` or ``check``
with ``--store URL``.
"""

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Iterator

import structlog
from msgspec import Struct
from msgspec.structs import fields

from shared import fanout
from shared.clock import SystemClock
from shared.config import Config, EndpointConfig, RetentionConfig, Secret, StoreConfig
from shared.ids import lowest_id, new_id
from shared.retention import Retention
from shared.store.migrate import migrate
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.retention import DAY
from tests.benchmarks import traffic
from tests.benchmarks.ingest import load
from tests.benchmarks.rig import Rig, count_rows, rig
from tests.benchmarks.sides import CORREIO, Place
from tests.support import books
from tests.support import events as ev
from tests.support.clock import ManualClock
from tests.support.endpoints import SECRET as ENDPOINT_SECRET
from tests.support.processes import write_config
from worker.events.apply import Applier
from worker.events.arrivals import Arrival

GROUP = 1_000
STORY = (
    ev.event("link_created", linkId="LINK-"),
    ev.event("consent_authorised", linkId="LINK-", consentId="CONSENT-"),
    ev.event("product_request_received", linkId="LINK-", requestId="REQUEST-",
             consentIds=["CONSENT-"], products=["pf_checking_account"]),
    ev.event("product_generated_success", requestId="REQUEST-", product="pf_checking_account"),
    ev.event("consent_revoked", linkId="LINK-", consentId="CONSENT-"),
)  # fmt: skip
"""Afterwards the consent is over and the request complete."""

OLD = 40
"""Days since the first events of the older half; they came over five days."""

LIMIT = 20
CONFIG = Config(
    endpoint=(EndpointConfig(id="crm", url="http://x", secrets=(Secret(ENDPOINT_SECRET),)),)
)


class Size(Struct, frozen=True):
    """How much is measured: events, requests of ten events a second, seconds of each turn."""

    events: int
    rate: float
    seconds: float
    turns: int


def stories(first: int, count: int) -> Iterator[bytes]:
    """The events of that many users, from the given number on."""
    templates = [
        ev.dump({**one, "eventId": f"E{place}-"}).replace(b'-"', b'-%d"')
        for place, one in enumerate(STORY)
    ]
    for number in range(first, first + count):
        for one in templates:
            yield one.replace(b"%d", b"%d" % number)


async def fill(url: str, events: int) -> None:
    """Store the events, half of them old; every delivery has been made at the first attempt."""
    await migrate(Secret(url))
    store = open_store(StoreConfig(url=Secret(url)))
    await store.start()
    clock = ManualClock(SystemClock().now() - OLD * DAY)
    fanout.new_id = lambda: f"{lowest_id(clock.now())}{new_id()[13:]}"  # ids of that time
    await store.make_room(now=clock.now())
    applier = Applier(store, CONFIG, clock=clock)
    users = events // len(STORY)
    began, group = time.perf_counter(), list[Arrival]()
    for half in range(2):
        first = half * (users // 2)
        for number, body in enumerate(stories(first, users // 2)):
            group.append(Arrival(body, "klavi", "b", clock.now()))
            if len(group) == GROUP:
                await applier.apply(group)
                group = []
            if not half and number % (events // 10) == 0:
                clock.move(DAY / 1000)
        await applier.apply(group)
        group = []
        clock.move(max(0, SystemClock().now() - clock.now()) / 1000)
    await _deliver(store)
    await store.close()
    print(f"filled at {events / (time.perf_counter() - began):,.0f} events/s", flush=True)


async def _deliver(store: Store) -> None:
    await store.change([
        ("INSERT INTO attempts (delivery_id, number, at, duration_ms, outcome, status, error, "
         "answer) SELECT id, 1, created_at, 5, 'succeeded', 200, '', ? FROM deliveries", (b"",)),
        ("UPDATE deliveries SET state = 'delivered', attempts = 1", ()),
        ("UPDATE leases SET ended_at = 0", ()),
    ])  # fmt: skip


class Gate(SystemClock):
    """A clock on which a pass goes on only while it is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        await self.open.wait()


@contextlib.asynccontextmanager
async def working(place: Place) -> AsyncIterator[int]:
    """A receiver, whose port it gives, and an events worker that makes no passes itself."""
    write_config(
        place.folder,
        broker={"url": place.broker},
        store={"url": place.store},
        receiver={"spool": str(place.folder / "spool")},
        retention={"interval": 1e10},
        source=[{"name": "klavi", "secrets": [traffic.SECRET], "partner_app_ids": [ev.APP]}],
    )
    with CORREIO.worker(place):
        async with CORREIO.receiver(place) as (port, _):
            yield port


async def measure(made: Rig, url: str, size: Size) -> None:
    """Print what acknowledgements take without and with a pass under way, by what it removes.

    The two take turns of a few seconds each, so that whatever else slows the machine down slows
    both; the ratio of the p99 is the median of the turns' ratios. A pass rests while it is not its
    turn.
    """
    with made.vhost() as broker:
        place = Place(made, made.fresh("retention"), broker, url)
        await CORREIO.prepare(place)
        ratios = []
        async with working(place) as port:
            await load(made, port, batch=10, seconds=size.seconds, rate=size.rate, pids={})
            for days in ("payload_days", "attempt_days", "ended_days"):
                ratios += await _turns(made, port, url, size, days=days)
    print(f"p99 with a pass: {statistics.median(ratios):.2f} times that without", flush=True)


async def _turns(made: Rig, port: int, url: str, size: Size, *, days: str) -> list[float]:
    none = {one.name: 0.0 for one in fields(RetentionConfig) if one.name.endswith("_days")}
    table = {"payload_days": "payloads", "attempt_days": "attempts"}.get(days, "aggregates")
    store = open_store(StoreConfig(url=Secret(url)))
    await store.start()
    gate, before = Gate(), count_rows(url, table)
    retention = Retention(store, RetentionConfig(**{**none, days: LIMIT}), clock=gate)
    passing = asyncio.create_task(retention.run_now())
    seen: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(size.turns * 2):
        under_way = turn % 2 == 1
        if under_way:
            gate.open.set()
        answer, _ = await load(
            made, port, batch=10, seconds=size.seconds, rate=size.rate, warm=0.5, pids={}
        )
        gate.open.clear()
        if answer["refused"]:
            raise RuntimeError(f"refused {answer['refused']}")
        seen[under_way].append(answer["p99"])
    ended = passing.done()
    gate.open.set()
    passing.cancel()
    await asyncio.gather(passing, return_exceptions=True)
    gone = before - count_rows(url, table)
    await store.close()
    ratios = [one / other for one, other in zip(seen[True], seen[False], strict=True)]
    print(
        f"{table}: {gone:,} removed{', all of them' if ended else ''}; p99 without "
        f"{statistics.median(seen[False]):.1f} ms, with {statistics.median(seen[True]):.1f} ms, "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )
    return ratios


async def check(url: str, events: int) -> None:
    """End the pass; exactly the older half must be gone then, and the books must balance."""
    began = time.perf_counter()
    store = open_store(StoreConfig(url=Secret(url)))
    await store.start()
    days = {f"{one}_days": LIMIT for one in ("payload", "attempt", "ended")}
    await Retention(store, RetentionConfig(**days), clock=SystemClock()).run_now()
    await store.close()
    print(f"the rest of the pass took {time.perf_counter() - began:.0f} s", flush=True)
    ((old,),) = books.fetch(
        url, f"SELECT count(*) FROM events WHERE received_at < {SystemClock().now() - LIMIT * DAY}"
    )
    left = {one: count_rows(url, one) for one in ("events", "payloads", "deliveries", "attempts")}
    young = books.fetch(url, "SELECT count(*) FROM events WHERE batch_id = 'b'")[0][0]
    print(f"{old} old events left, {young:,} of {events:,} filled; rows {left}", flush=True)
    faults = await books.audit_faults(url)
    print("the books balance" if not faults else f"FAULTS {faults}", flush=True)
    if old or young != events // 2 or faults:
        raise SystemExit(1)


async def run(options: argparse.Namespace) -> None:
    size = Size(options.events, options.rate, options.seconds, options.turns)
    async with contextlib.AsyncExitStack() as stack:
        made = await stack.enter_async_context(rig())
        for kind in [""] if options.store else options.kinds.split(","):
            folder = made.fresh("store")
            url = options.store or stack.enter_context(made.store(kind, folder))
            print(f"{kind or 'store'}: {size.events:,} events", flush=True)
            if options.stage in ("all", "fill"):
                await fill(url, size.events)
            if options.stage in ("all", "measure"):
                await measure(made, url, size)
            if options.stage in ("all", "check"):
                await check(url, size.events)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", nargs="?", default="all",
                        choices=("all", "fill", "measure", "check"))  # fmt: skip
    parser.add_argument("--store", default="", help="URL of the store; default: stores of its own")
    parser.add_argument("--kinds", default="sqlite,postgres")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=100, help="requests of ten events a second")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--turns", type=int, default=6)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
