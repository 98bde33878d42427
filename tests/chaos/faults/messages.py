"""Messages that are none of ours, and what sources send that they should not."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import aio_pika

from shared.broker import topology
from tests.chaos.catalogue import Chapter
from tests.chaos.faults.broker import channel
from tests.chaos.stage import Stage
from tests.support import events as ev
from tests.support.http import ask, connected, request
from tests.support.proxy import Weather
from tests.support.world import Listener

CHAPTER = Chapter()

POISON = (
    b"", b"\x00\xff\xfe", b"not json", b"[" * 10_000, b"null", b"[]", b"{}", b"1e400",
    b'{"eventId":"\\u0000","eventName":"consent_authorised","eventType":"api"}',
    b'{"eventName":"consent_authorised","eventType":"api","payload":7}',
)  # fmt: skip


async def put(stage: Stage, queue: str, *bodies: bytes, **headers: object) -> None:
    """Put messages into a queue as somebody else would."""
    async with channel(stage) as open_channel:
        for body in bodies:
            message = aio_pika.Message(body, headers=headers)  # type: ignore[arg-type]  # any value that AMQP knows
            await open_channel.default_exchange.publish(message, routing_key=queue)


@CHAPTER.row(
    "poison-among-events",
    fault="the events queue gets messages that cannot be understood",
    how="published past the receiver: empty, binary, nested, broken, without headers",
    holds="each is in quarantine; none holds up its batch",
    seconds=0.5,
)
async def poison(stage: Stage) -> AsyncIterator[None]:
    source = stage.unused("poison")  # of one source, the same content would count but once
    await put(stage, topology.EVENTS, *POISON, source=source)
    await put(stage, topology.EVENTS, b"[" + source.encode())
    stage.foreign += len(POISON) + 1
    yield


@CHAPTER.row(
    "foreign-headers-among-events",
    fault="the events queue gets messages with headers of the wrong kind",
    how="published past the receiver: x-death copied, numbers for texts, tables for numbers",
    holds="each is in quarantine",
    seconds=0.5,
)
async def foreign_headers(stage: Stage) -> AsyncIterator[None]:
    death = {"queue": topology.EVENTS, "reason": "expired", "count": 3}
    body = b"{" + stage.unused("x").encode()
    await put(stage, topology.EVENTS, body, **{"x-death": [death], "source": 7,
              "received-at": "yesterday", "batch-id": {"a": 1}, "traceparent": 1.5})  # fmt: skip
    stage.foreign += 1
    yield


@CHAPTER.row(
    "foreign-among-callbacks",
    fault="the callbacks queue gets messages that name no delivery",
    how="published past the relay: unknown ids, binary, empty, 1 MB",
    holds="they are counted and settled; no callback comes of them",
    seconds=0.5,
)
async def foreign_callbacks(stage: Stage) -> AsyncIterator[None]:
    bodies = (b"", b"\x00\xff", b"0190a0b0-0000-7000-8000-000000000000", bytes(1_000_000))
    await put(stage, topology.CALLBACKS, *bodies)
    yield


@CHAPTER.row(
    "dead-letters",
    fault="the broker has given messages up",
    how="published to the dead-letter queue",
    holds="each is in quarantine as dead-lettered",
    seconds=0.5,
)
async def dead_letters(stage: Stage) -> AsyncIterator[None]:
    dead = stage.unused("dead").encode()
    await put(stage, topology.DEAD, b'{"eventId":"%b"}' % dead, dead)
    stage.foreign += 2
    yield


@CHAPTER.row(
    "source-repeats-and-shuffles",
    fault="the source sends each event three times, in another order, over four connections",
    how="four clients at once",
    holds="each event is applied once; the state is that of any other order",
    seconds=0.0,
)
async def repeats(stage: Stage) -> AsyncIterator[None]:
    chance = random.Random(5)
    source = stage.world.another_source(stage.unused("shuffled"))
    made = source.batch(60)
    source.made += made
    copies = made * 3
    chance.shuffle(copies)

    async def send(part: list[dict[str, object]]) -> None:
        for start in range(0, len(part), 5):
            await stage.insist(ev.dump(part[start : start + 5]))

    await asyncio.gather(*(send(copies[start::4]) for start in range(4)))
    source.accepted |= {one["eventId"] for one in made}
    yield


@CHAPTER.row(
    "source-hangs-up",
    fault="the source hangs up before it has its answer, and sends the batch again",
    how="connection closed right after the request, 20 times; then once in good order",
    holds="each event is applied once",
    seconds=0.0,
)
async def hangs_up(stage: Stage) -> AsyncIterator[None]:
    source = stage.world.another_source(stage.unused("hasty"))
    for _ in range(20):
        batch = source.batch(3)
        with contextlib.suppress(ConnectionError):
            async with connected(Listener(stage.door.port)) as client:
                await client.send(request(ev.dump(batch)))
        await source.deliver(batch)
    await source.hang_up()
    yield


@CHAPTER.row(
    "source-line-breaks",
    fault="connections of the source are reset again and again, amid requests and answers",
    how="proxy before the receiver: reset every 100 ms for 3 s",
    holds="the source repeats; each event is applied once",
    seconds=0.0,
)
async def line_breaks(stage: Stage) -> AsyncIterator[None]:
    for _ in range(30):
        await asyncio.sleep(0.1)  # the fault itself: a reset every 100 ms
        stage.door.reset()
    yield


@CHAPTER.row(
    "source-line-narrow",
    fault="the source's line passes 300 bytes/s, so that bodies come too slowly",
    how="proxy before the receiver: throttle",
    holds="408 to bodies that take too long; the source repeats",
    seconds=0.0,
)
async def line_narrow(stage: Stage) -> AsyncIterator[None]:
    with stage.door.under(Weather(rate=100.0)):
        await stage.repeats()
        yield


@CHAPTER.row(
    "strangers",
    fault="strangers send what is unsigned, wrongly signed, broken, too deep, or no HTTP at all",
    how="raw requests between those of the source",
    holds="4xx each; nothing of it is stored",
    seconds=0.0,
)
async def strangers(stage: Stage) -> AsyncIterator[None]:
    body = ev.dump([ev.event("consent_authorised", at=1, event_id="stranger")])
    door = Listener(stage.door.port)
    for raw in (
        request(body, X_Klavi_Signature="0" * 64),
        request(body, X_Klavi_Signature=None),
        request(body, path="/v1/webhooks/nobody"),
        request(b"[" * 5_000),
        request(b'{"a":'),
        request(b"\xff\xfe"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ):
        assert 400 <= (await ask(door, raw)).status < 500
    yield
