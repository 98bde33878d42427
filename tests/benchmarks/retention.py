"""What a pass of retention does to the acknowledgements: ``python -m tests.benchmarks.retention``.

A store is filled with many events, the older half of them in the past; then a receiver takes
batches at a given rate, an events worker beside it, at first without and then with a pass under
way. Afterwards half of the events must be gone and the books must balance.

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

from shared.clock import SystemClock
from shared.config import Config, EndpointConfig, RetentionConfig, Secret, StoreConfig
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
    """How much is measured: events, requests of ten events a second, seconds of each window."""

    events: int
    rate: float
    seconds: float
    rounds: int


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


@contextlib.asynccontextmanager
async def working(place: Place, *, retention: bool) -> AsyncIterator[tuple[int, dict[str, int]]]:
    """A receiver's port and all that works, with or without passes."""
    days = {f"{one}_days": LIMIT for one in ("payload", "attempt", "ended")}
    write_config(
        place.folder,
        broker={"url": place.broker},
        store={"url": place.store},
        receiver={"spool": str(place.folder / "spool")},
        retention={"interval": 60 if retention else 1e10, **days},
        source=[{"name": "klavi", "secrets": [traffic.SECRET], "partner_app_ids": [ev.APP]}],
    )
    with CORREIO.worker(place) as worker:
        async with CORREIO.receiver(place) as (port, receiver):
            pids = {"receiver": receiver.pid, "events worker": worker.pid}
            pids |= place.rig.broker_pids() | place.rig.database_pids(place.store)
            yield port, pids


async def measure(made: Rig, url: str, size: Size) -> float:
    """Print what acknowledgements take without and with a pass, in turns.

    Returns the median of each turn's ratio of the p99. The pass goes on from turn to turn.
    """
    ratios = []
    with made.vhost() as broker:
        place = Place(made, made.fresh("retention"), broker, url)
        await CORREIO.prepare(place)
        for _ in range(size.rounds):
            without, with_pass = [
                await _window(place, size, retention=retention) for retention in (False, True)
            ]
            ratios.append(with_pass / without)
    ratio = statistics.median(ratios)
    print(f"p99 with a pass: {ratio:.2f} times that without", flush=True)
    return ratio


async def _window(place: Place, size: Size, *, retention: bool) -> float:
    """The p99 in milliseconds; prints what else was seen."""
    before = {one: count_rows(place.store, one) for one in ("payloads", "deliveries")}
    async with working(place, retention=retention) as (port, pids):
        answer, use = await load(
            place.rig, port, batch=10, seconds=size.seconds, rate=size.rate, warm=3, pids=pids
        )
        gone = {one: count - count_rows(place.store, one) for one, count in before.items()}
    if answer["refused"]:
        raise RuntimeError(f"refused {answer['refused']}")
    told = ", ".join(f"{name} {share:.0%}" for name, share in use.cpu.items())
    shown = ", ".join(f"{count:,} {one}" for one, count in gone.items()) if retention else "nothing"
    print(
        f"{'with' if retention else 'without'} a pass: p50 {answer['p50']:.1f} ms, "
        f"p99 {answer['p99']:.1f} ms at {answer['rate']:,.0f} events/s; CPU {told}; "
        f"removed {shown}",
        flush=True,
    )
    return float(answer["p99"])


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
    size = Size(options.events, options.rate, options.seconds, options.rounds)
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
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
