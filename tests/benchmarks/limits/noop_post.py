"""The limit of HTTP: a server that verifies the HMAC, splits the batch and does nothing else.

``python -m tests.benchmarks.limits.noop_post PORT``
"""

import asyncio
import sys

import uvloop
from aiohttp import web

from receiver import signature
from receiver.batch import split
from tests.benchmarks.traffic import SECRET

KEY = SECRET.encode()


async def handle(request: web.BaseRequest) -> web.Response:
    body = await request.read()
    if not signature.verify(body, request.headers[signature.HEADER], [KEY]):
        return web.Response(status=401)
    events = split(body, max_events=1_000, max_depth=64)
    assert isinstance(events, tuple)
    return web.Response(body=b'{"accepted":%d}' % len(events), content_type="application/json")


async def serve(port: int) -> None:
    server = web.Server(handle, access_log=None)
    await asyncio.get_running_loop().create_server(server, "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
