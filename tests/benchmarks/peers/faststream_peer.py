"""FastStream: its own ASGI application takes the batch, its subscriber does the job.

``uvicorn tests.benchmarks.peers.faststream_peer:receiver`` and
``python -m tests.benchmarks.peers.faststream_peer``.
"""

import asyncio

import orjson
import uvloop
from faststream import AckPolicy, FastStream
from faststream.asgi import AsgiFastStream, AsgiResponse, Request, post
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitMessage, RabbitQueue
from msgspec import Raw
from msgspec.json import decode

from tests.benchmarks.peers import job

QUEUE = RabbitQueue("peer.events", queue_type=QueueType.QUORUM, durable=True)

broker = RabbitBroker(job.broker_url(), logger=None)


@post
async def take(request: Request) -> AsgiResponse:
    """What its documentation calls an ASGI route."""
    body = await request.body()
    if not job.verified(body, request.headers.get("x-klavi-signature", "")):
        return AsgiResponse(b"", 401)
    events = decode(body, type=list[Raw])
    await asyncio.gather(*(
        broker.publish(bytes(one), QUEUE, persist=True, content_type="application/json")
        for one in events
    ))  # fmt: skip
    return AsgiResponse(
        orjson.dumps({"accepted": len(events)}), 200, {"content-type": "application/json"}
    )


async def declare() -> None:
    await broker.declare_queue(QUEUE)


receiver = AsgiFastStream(
    broker, asgi_routes=[("/v1/webhooks/klavi", take)], after_startup=[declare]
)

subscribing = RabbitBroker(job.broker_url(), logger=None)
worker = FastStream(subscribing)
_sqlite = job.sqlite_path()
_store = job.Sqlite(_sqlite) if _sqlite else job.Asyncpg(job.store_url())


@worker.on_startup
async def open_store() -> None:
    if isinstance(_store, job.Asyncpg):
        await _store.open()


@subscribing.subscriber(
    QUEUE, channel=Channel(prefetch_count=100), ack_policy=AckPolicy.NACK_ON_ERROR
)
async def handle(message: RabbitMessage) -> None:
    if isinstance(_store, job.Asyncpg):
        await _store.do(message.body)
    else:
        _store.do(message.body)


if __name__ == "__main__":
    uvloop.run(worker.run())
