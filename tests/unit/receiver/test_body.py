"""What a body holds, while it is in hand and after its sender went away."""

import asyncio
import gc
import gzip
import tracemalloc
from typing import Any
from unittest import mock

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from multidict import CIMultiDict

from receiver.body import FREE_BYTES, Budget, decode_body, read_body

MIB = 2**20


class Request:
    """As much of a request as is looked at."""

    content_length = None
    body_exists = True

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.content = StreamReader(mock.Mock(spec=BaseProtocol), 2 * MIB, loop=loop)


async def part_of_a_body(*, size: int) -> StreamReader:
    """Read a body that breaks off after `size` bytes."""
    request: Any = Request()
    with Budget(8 * MIB).hold() as held:
        reading = asyncio.create_task(read_body(request, limit=4 * MIB, seconds=5, held=held))
        for _ in range(size // 65_536):
            request.content.feed_data(bytes(65_536))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        request.content.set_exception(ConnectionResetError("gone"))
        with pytest.raises(ConnectionResetError):
            await reading
    stream: StreamReader = request.content
    return stream


async def test_a_body_that_breaks_off_is_forgotten_at_once() -> None:
    """aiohttp's stream keeps the exception, and with it whatever the frames that it passed hold."""
    await part_of_a_body(size=65_536)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        stream = await part_of_a_body(size=2 * MIB)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert stream.exception() is not None
    assert held < MIB // 4


def test_a_compressed_body_holds_what_it_turned_out_to_be() -> None:
    request: Any = mock.Mock(headers=CIMultiDict({"Content-Encoding": "gzip"}))
    plain = bytes(MIB)
    body = gzip.compress(plain)
    budget = Budget(5 * MIB)
    with budget.hold() as held:
        assert held.grow(len(body))
        assert decode_body(request, body, limit=4 * MIB, held=held) == plain
        left = 5 * MIB - (len(body) + len(plain) - FREE_BYTES)
        assert budget.move(left)
        assert not budget.move(1)
        budget.move(-left)
    assert budget.move(5 * MIB)
