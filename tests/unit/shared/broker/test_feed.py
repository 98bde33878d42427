"""However the stream is cut, each delivery is taken whole and all else is passed on as it came."""

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from shared.broker.feed import Delivered, Feed

TAPPED, OTHER = 3, 4
HEARTBEAT = frame.marshal(Heartbeat(), 0)

values = st.text() | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.none()
tables = st.dictionaries(st.text(min_size=1, max_size=20), values, max_size=5)


def delivery(
    channel: int, body: bytes, tag: int, *, size: int = 50, redelivered: bool = False, **more: Any
) -> bytes:
    """The frames that a broker would send."""
    properties = Basic.Properties(delivery_mode=2, message_id="m", **more)
    made = [
        Basic.Deliver("consumer", tag, redelivered, "exchange", "key"),
        ContentHeader(body_size=len(body), properties=properties),
        *(ContentBody(body[at : at + size]) for at in range(0, len(body), size)),
    ]
    return b"".join(frame.marshal(one, channel) for one in made)


def fed(*pieces: bytes) -> tuple[list[Delivered], bytes]:
    """What is taken, and what is passed on."""
    taken: list[Delivered] = []

    async def feed() -> bytes:
        made = Feed()
        made._shown = float("inf")  # no signs of life among what is compared
        made.tap(TAPPED, taken.append)
        for piece in pieces:
            made.feed_data(piece)
        made.feed_eof()
        return await made.read()

    return taken, asyncio.run(feed())


@given(
    bodies=st.lists(st.binary(max_size=150), min_size=1, max_size=4),
    headers=tables,
    cuts=st.lists(st.integers(0, 2_000), max_size=8),
    redelivered=st.booleans(),
)
def test_deliveries_are_taken_whole(
    bodies: list[bytes], headers: dict[str, Any], cuts: list[int], *, redelivered: bool
) -> None:
    ack = frame.marshal(Basic.Ack(7, multiple=False), TAPPED)
    foreign = delivery(OTHER, b"for another", 1)
    stream, expected = b"", b""
    for tag, body in enumerate(bodies, start=1):
        stream += delivery(
            TAPPED, body, tag, redelivered=redelivered, headers=headers or None,
            content_type="application/json",
        ) + ack + foreign + HEARTBEAT  # fmt: skip
        expected += ack + foreign + HEARTBEAT
    places = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]
    taken, passed = fed(*pieces)
    assert passed == expected
    assert [one.body for one in taken] == bodies
    assert [one.tag for one in taken] == list(range(1, len(bodies) + 1))
    assert all(dict(one.headers) == headers for one in taken)
    assert {one.redelivered for one in taken} == {redelivered}


def test_headers_of_any_kind_are_read() -> None:
    headers = {"list": [1, "two"], "table": {"a": 1}, "yes": True, "text": "João"}
    taken, _ = fed(delivery(TAPPED, b"x", 1, headers=headers))
    assert taken[0].headers == headers


def test_a_broker_of_another_version_is_heard() -> None:
    assert fed(b"AMQP\x00\x00", b"\x09\x01") == ([], b"AMQP\x00\x00\x09\x01")


def test_a_stream_that_ends_within_a_frame_is_passed_on() -> None:
    cut = delivery(TAPPED, b"whole", 1) + delivery(OTHER, b"cut", 2)[:-5]
    taken, passed = fed(cut)
    assert [one.body for one in taken] == [b"whole"]
    assert passed == delivery(OTHER, b"cut", 2)[:-5]


async def test_a_broker_that_only_delivers_is_seen_to_live() -> None:
    feed = Feed()
    feed.tap(TAPPED, lambda _: None)
    feed.feed_data(delivery(TAPPED, b"x", 1))
    feed.feed_data(delivery(TAPPED, b"x", 2))
    feed.feed_eof()
    assert await feed.read() == HEARTBEAT


async def test_what_is_tapped_anew_begins_anew() -> None:
    feed, taken = Feed(), list[Delivered]()
    feed.tap(TAPPED, lambda _: pytest.fail("of the channel that has gone"))
    feed.feed_data(frame.marshal(Basic.Deliver("c", 1, False, "e", "k"), TAPPED))
    feed.tap(TAPPED, taken.append)
    feed.feed_data(delivery(TAPPED, b"new", 1))
    assert [one.body for one in taken] == [b"new"]
