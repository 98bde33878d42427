"""The judge: has every promise been kept, once all faults have ended and everything has drained?"""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson

from shared.config import Secret, StoreConfig
from shared.domain.aggregates import is_erased
from shared.domain.events import content_digest
from shared.domain.product_request import ProductRequestState
from shared.store.audit import audit
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.spool import measure_spool
from tests.chaos.simulated.loop import EPOCH, Life
from tests.chaos.simulated.privacy import privacy_faults
from tests.chaos.simulated.world import ENDPOINTS, HEALED, SimWorld
from tests.support import books
from tests.support.privacy import impersonal

LOOK = 2.0
"""Seconds between two looks at what is still under way."""

WAITING = "SELECT count(*) FROM deliveries WHERE state IN ('pending', 'retrying', 'held')"
UNSETTLED = "SELECT count(*) FROM aggregates WHERE settles = 1"
ERASING = "SELECT count(*) FROM erasures WHERE state <> 'done'"
LATE = 60.0


async def drained(world: SimWorld, store: Store) -> list[str]:
    """Wait until nothing is under way; what still is after `HEALED` seconds."""
    until = world.loop.time() + HEALED
    left: list[str] = []
    while world.loop.time() < until:
        await world.resume_endpoints(store)
        left = await _under_way(world, store)
        if not left:
            return []
        await asyncio.sleep(LOOK)
    return [f"still there {HEALED:g} s after the last fault: {', '.join(left)}"]


async def _under_way(world: SimWorld, store: Store) -> list[str]:
    """What is not done; looked at in the order in which things move, so that nothing slips by."""
    left = [f"{place.name} is away" for place in world.places if place.life is None]
    left += _spooled(Path(world.config.receiver.spool))
    left += [f"{one.depth} in {one.name}" for one in world.broker.queues.values() if one.depth]
    for query, what in (
        (UNSETTLED, "unsettled requests"),
        (ERASING, "erasures"),
        (WAITING, "deliveries"),
    ):
        ((count,),) = await store.fetch(query)
        if count:
            left.append(f"{count} {what}")
    return left


def _spooled(folder: Path) -> list[str]:
    """What the spool holds, and what is still to be saved out of damaged files."""
    spool = measure_spool(folder, now=0)
    left = [f"the spool: {spool}"] if spool is None or spool.events else []
    return left + [f"{path.name} to be salvaged" for path in folder.glob("damaged-*.lock")]


async def judge(world: SimWorld, store: Store, url: str) -> list[str]:
    """Every promise that was broken."""
    faults = await drained(world, store)
    faults += world.faults + world.loop.failures
    for endpoint in world.endpoints.values():
        faults += endpoint.faults
    faults += _spool_faults(world)
    now = EPOCH + round(world.loop.time() * 1000)
    checks = await audit(store, now=now, late_after=LATE)
    faults += [f"the audit: {one.name}: {one.found}" for one in checks if not one.ok]
    faults += await _events_faults(world, store)
    after = books.read(url)
    erased = {key.id for key, state in after.states.items() if is_erased(state)}
    faults += await _told_faults(world, store, erased)
    faults += await privacy_faults(store, url, after, world.folder, world.keys)
    for reason, count in after.quarantined.items():
        world.weather.seen[f"(quarantined: {reason})"] += count
    try:
        books.check(after)
        _settle(after)
        books.compare_with_model(after, await _applied(world, store))
    except AssertionError as error:
        faults.append(f"not as the model has it: {error}")
    return faults


def _settle(after: books.Books) -> None:
    """Orders of all products, which the model does not know: they have settled by time."""
    for key, state in list(after.states.items()):
        if isinstance(state, ProductRequestState) and state.order and not state.listed:
            assert state.status == "SETTLED", key
            del after.states[key]


async def _applied(world: SimWorld, store: Store) -> list[dict[str, object]]:
    """The events that are in the store, as they were made."""
    name = _names(world, store)
    stored = {name(one) for (one,) in await store.fetch("SELECT content FROM events")}
    made = [one.event for one in world.source.sent.values() if one.digest in stored]
    return [one for one in made if one is not None]


async def _events_faults(world: SimWorld, store: Store) -> list[str]:
    """What was acknowledged is there, once; nothing is there that nobody sent."""
    name = _names(world, store)
    stored = Counter(name(one) for (one,) in await store.fetch("SELECT content FROM events"))
    kept = {name(one) for (one,) in await store.fetch("SELECT content FROM quarantine")}
    labels = await store.fetch("SELECT content, variant, label FROM events")
    refused = await store.fetch("SELECT content FROM quarantine WHERE reason = 'refused_by_store'")
    sent = world.source.sent
    poison = {one for one, told in sent.items() if told.poisonous}
    faults = [
        f"acknowledged and lost: {sent[one].raw!r}"
        for one in sorted(world.source.acknowledged - kept - stored.keys())
    ]
    faults += [f"stored {n} times: {sent[one].raw!r}" for one, n in stored.items() if n > 1]
    faults += [f"stored but never sent: {one}" for one in stored if one not in sent]
    faults += [
        f"{content} is labelled {label}, being variant {variant} of its id"
        for content, variant, label in labels
        if label != "erased" and (variant > 0) != (label == "divergent")
    ]
    faults += [
        f"refused by the store: {sent[name(one)].raw!r}"
        for (one,) in refused
        if name(one) not in poison
    ]
    faults += [f"the store took {one}" for one in poison & stored.keys()]
    return faults


def _names(world: SimWorld, store: Store) -> Callable[[str], str]:
    """From the digest that the store keeps to the one by which the source knows what it sent."""
    key = store.sealing.content_key
    known = {content_digest(told.raw, key): one for one, told in world.source.sent.items()}
    return lambda stored: known.get(stored, stored)


async def _told_faults(world: SimWorld, store: Store, erased: set[str]) -> list[str]:
    """Every notification that is due was received, with one body under its id.

    Of what is `erased`, what was personal may be missing in later attempts.
    """
    faults = []
    rows = await store.fetch(
        "SELECT d.id, d.endpoint, d.state, d.type, d.version, a.key FROM deliveries d "
        "JOIN aggregates a ON a.id = d.aggregate_id"
    )
    known: dict[str, set[str]] = {name: set() for name in ENDPOINTS}
    for one, name, state, kind, version, key in rows:
        known[name].add(one)
        calls = world.endpoints[name].calls.get(one, [])
        if state == "delivered" and not any(call.answered == 200 for call in calls):
            faults.append(f"{one} to {name} counts as {state} but was never received")
        elif state != "delivered" and not (state == "cancelled" and one in world.cancelled):
            faults.append(f"{one} to {name} is {state}")
        bodies = {call.body for call in calls}
        if len(bodies if key not in erased else {impersonal(body) for body in bodies}) > 1:
            faults.append(f"{one} to {name} has {len(bodies)} bodies")
        for body in bodies:
            told = orjson.loads(body)
            if (told["type"], told["data"]["version"], told["data"]["id"]) != (kind, version, key):
                faults.append(f"{one} to {name} tells something else: {body!r}")
    faults += [
        f"{name} was told {one}, which does not exist"
        for name, endpoint in world.endpoints.items()
        for one in endpoint.calls.keys() - known[name]
    ]
    transitions = await store.fetch("SELECT type FROM transitions")
    due = sum(
        1 + kind.startswith("consent.") for (kind,) in transitions
    )  # the first endpoint wants all, the second what concerns consents
    if due != len(rows):
        faults.append(f"{due} notifications are due, {len(rows)} exist")
    return faults


def _spool_faults(world: SimWorld) -> list[str]:
    """Nothing is left on disk beside the files that are in use."""
    if world.weather.seen["spool misread"]:
        return []  # what was put aside stays, for a human
    folder = Path(world.config.receiver.spool)
    return [f"left in the spool: {path.name}" for path in sorted(folder.glob("damaged-*.db"))]


def observer(world: SimWorld, folder: Path) -> tuple[Life, Store, str]:
    """A process of the judge's own, and its store."""
    life = Life(world.loop, "judge")
    url = f"sqlite:///{folder}/store.db"
    store = life.context.run(open_store, StoreConfig(url=Secret(url)))
    return life, store, url
