"""The answer to a batch, on a connection that its sender does not read from."""

import asyncio
from unittest import mock

from aiohttp.test_utils import make_mocked_request

from receiver.responses import accepted


async def test_a_sender_that_reads_no_answers_is_answered_no_further() -> None:
    """Else what it leaves unread would pile up in memory."""
    read = asyncio.Event()
    writer = mock.Mock()
    writer.drain = read.wait
    transport = mock.Mock()
    transport.is_closing.return_value = False
    request = make_mocked_request("POST", "/", writer=writer, transport=transport)
    answering = asyncio.create_task(accepted(request, 3).prepare(request))
    await asyncio.sleep(0)
    transport.write.assert_called_once()
    assert transport.write.call_args.args[0].endswith(b'\r\n\r\n{"accepted":3}')
    assert not answering.done()
    read.set()
    await answering
