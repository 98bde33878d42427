"""What the hot paths cost in steps of the interpreter, whatever the machine's mood.

``python -m tests.benchmarks.budget`` counts and compares with `budget.json`; ``--renew`` writes it
anew. A test does the same in CI and fails when a path has become a fifth dearer. A step is one
instruction of Python's own machine, or one call of a function written in C, so for the same input
the count is always the same; it differs between versions of Python, and each has its own.
"""

import argparse
import asyncio
import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

from aiormq import Channel
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from receiver import signature
from receiver.batch import Batch, split
from receiver.outlet import messages_of
from shared.broker import frames
from shared.broker.burst import Burst
from shared.broker.feed import Delivered, Feed
from shared.config import EndpointConfig, SealingConfig, Secret
from shared.domain import aggregates
from shared.domain.keys import AggregateKey
from shared.fanout import Subscriptions
from shared.store.mapping import (
    aggregate_values,
    event_values,
    history_values,
    key_values,
    payload_values,
    transition_values,
)
from shared.store.postgres.columns import DUMPERS, columns
from shared.store.rows import Aggregate, Changes, Delivery, DeliveryState
from shared.store.seals import Keys, Sealing
from tests.benchmarks import traffic
from worker.callbacks.payload import body_of
from worker.callbacks.signing import sign
from worker.events import fold
from worker.events.arrivals import decode_all, from_message

FILE = Path(__file__).with_name("budget.json")
DEARER = 1.2
COUNT = 200
NOW = 1_700_000_000_000
TRACE = f"00-{'a' * 32}-{'b' * 16}-00"
KEY = b"k" * 32


def steps(work: Callable[[], object]) -> int:
    """The steps that `work` takes, when it runs for the third time and all caches are full."""
    counted = 0

    def trace(of: FrameType, event: str, _argument: Any) -> Any:
        nonlocal counted
        if event == "call":
            of.f_trace_opcodes, of.f_trace_lines = True, False
        elif event == "opcode":
            counted += 1
        return trace

    def profile(_of: FrameType, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event == "c_call"

    for _ in range(2):
        work()
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        sys.settrace(None)
    return counted


def _made() -> list[bytes]:
    """The same events at every call; with a fixed share of late ones and repetitions."""
    return traffic.events(COUNT)


def _batch(events: tuple[bytes, ...]) -> Batch:
    return Batch(id="b" * 36, source="klavi", received_at=NOW, traceparent=TRACE, events=events)


def admit() -> Callable[[], object]:
    """Verify, split and encode batches of 10, as the receiver does."""
    bodies = [(body, traffic.signature(body)) for body in traffic.batches(_made(), 10)]
    key = traffic.SECRET.encode()

    def work() -> None:
        for body, given in bodies:
            assert signature.verify(body, given, [key])
            events = split(body, max_events=1_000, max_depth=64)
            assert isinstance(events, tuple)
            for message in messages_of(_batch(events)):
                frames.publish(
                    channel=1, exchange=message.exchange, routing_key=message.routing_key,
                    message_id=b"m" * 40, headers=message.headers, body=message.body,
                    largest=131_064,
                )  # fmt: skip

    return work


def publish() -> Callable[[], object]:
    """Hand messages to the connection and take the broker's confirms, one by one."""
    messages = messages_of(_batch(tuple(_made())))

    async def all_of_it() -> None:
        channel = mock.Mock(spec=Channel, number=1, is_closed=False, max_content_size=131_064)
        burst = Burst(channel, len)
        waiting = asyncio.ensure_future(burst.publish(messages))
        await asyncio.sleep(0)
        burst._hand_over()
        for tag in range(1, len(messages) + 1):
            await burst._on_confirm(Basic.Ack(tag, multiple=False))
        await waiting

    return lambda: asyncio.run(all_of_it())


def take() -> Callable[[], object]:
    """Take deliveries off the stream and read what stands in their headers."""
    stream = b"".join(
        frame.marshal(one, 1)
        for tag, message in enumerate(messages_of(_batch(tuple(_made()))), start=1)
        for one in (
            Basic.Deliver("ctag", tag, False, "correio.events", "correio.events"),
            ContentHeader(
                body_size=len(message.body),
                properties=Basic.Properties(delivery_mode=2, headers=message.headers),
            ),
            ContentBody(message.body),
        )
    )

    async def all_of_it() -> None:
        taken: list[Delivered] = []
        feed = Feed()
        feed.tap(1, taken.append)
        for start in range(0, len(stream), 65_536):
            feed.feed_data(stream[start : start + 65_536])
        assert len([from_message(one, now=NOW) for one in taken]) == COUNT

    return lambda: asyncio.run(all_of_it())


def apply() -> Callable[[], object]:
    """Decode a batch, tell new from known and fold it; nothing is stored yet."""
    arrivals = [
        from_message(Delivered(message.body, message.headers, 1, False), now=NOW)
        for message in messages_of(_batch(tuple(_made())))
    ]
    return lambda: _folded(arrivals)


def _folded(arrivals: Any) -> Changes:
    decoded = decode_all(
        arrivals, now=NOW, future_tolerance=10**12, applications={}, digest_key=KEY
    )
    keys = sorted(fold.keys(decoded))
    loaded = {key: _initial(number, key) for number, key in enumerate(keys, start=1)}
    sifted = fold.sift(decoded, known={}, numbers=range(1, COUNT + 1))
    late = fold.late_aggregates(sifted.fresh, loaded)
    endpoint = EndpointConfig(id="crm", url="https://crm.example.com/")
    folder = fold.Folder(
        loaded, histories=dict.fromkeys(late, ()), subscriptions=Subscriptions([endpoint]), now=NOW
    )
    return folder.fold(sifted)


def _initial(number: int, key: AggregateKey) -> Aggregate:
    return Aggregate(number, key, 0, aggregates.initial(key.kind))


def write() -> Callable[[], object]:
    """Seal what a batch writes and put it into columns for PostgreSQL."""
    arrivals = [
        from_message(Delivered(message.body, message.headers, 1, False), now=NOW)
        for message in messages_of(_batch(tuple(_made())))
    ]
    changes = _folded(arrivals)
    sealing = Sealing(SealingConfig(keys=Secret("k1:" + base64.b64encode(KEY).decode())))

    def work() -> None:
        keys = Keys(sealing)
        for rows in (
            [event_values(one) for one in changes.events],
            payload_values(changes, keys),
            history_values(changes, keys),
            aggregate_values(changes, keys),
            transition_values(changes, keys),
            key_values(keys),
        ):
            for column in columns(rows):
                dumper = DUMPERS[type(column)]
                dumper(type(column)).dump(column)

    return work


def call() -> Callable[[], object]:
    """Body and signature of callbacks."""
    deliveries = [
        Delivery(
            id=f"{number:036d}", endpoint="crm", type="consent.authorised",
            state=DeliveryState.PENDING, due_at=NOW, attempts=0, transition_at=NOW + number,
            data=b'{"aggregate":"consent"}', aggregate=AggregateKey("consent", "1", "c"), version=1,
        )
        for number in range(COUNT)
    ]  # fmt: skip

    def work() -> None:
        for one in deliveries:
            sign([KEY], webhook_id=one.id, timestamp=NOW // 1_000, body=body_of(one))

    return work


PATHS = {made.__name__: made for made in (admit, publish, take, apply, write, call)}


def version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def stored() -> dict[str, dict[str, float]]:
    """Steps for each event or callback by version of Python and path."""
    found: dict[str, dict[str, float]] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return found


def counted(name: str) -> float:
    """Steps for each event or callback."""
    return steps(PATHS[name]()) / COUNT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renew", action="store_true", help="what is counted now is the budget")
    options = parser.parse_args()
    kept = stored()
    known = kept.get(version(), {})
    now = {name: round(counted(name), 1) for name in PATHS}
    for name, count in now.items():
        before = known.get(name)
        told = f"{count / before:6.2f} of the budget" if before else "no budget yet"
        print(f"{name:10} {count:9.1f} steps each  {told}")
    if options.renew:
        FILE.write_text(json.dumps(kept | {version(): now}, indent=1, sort_keys=True) + "\n")
        return
    sys.exit(any(count > known.get(name, count) * DEARER for name, count in now.items()))


if __name__ == "__main__":
    main()
