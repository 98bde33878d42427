"""taskiq with its aio-pika broker: FastAPI takes the batch, a task does the job.

``uvicorn tests.benchmarks.peers.taskiq_peer:receiver`` and
``taskiq worker tests.benchmarks.peers.taskiq_peer:broker``.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from msgspec import Raw
from msgspec.json import decode
from taskiq import TaskiqEvents, TaskiqState
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

from tests.benchmarks.peers import job

broker = AioPikaBroker(job.broker_url(), qos=100).with_queues(
    Queue(name="peer.events", type=QueueType.QUORUM)
)
_stores: list[job.Sqlite | job.Asyncpg] = []


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_store(_state: TaskiqState) -> None:
    path = job.sqlite_path()
    if path:
        _stores.append(job.Sqlite(path))
    else:
        store = job.Asyncpg(job.store_url())
        await store.open()
        _stores.append(store)


@broker.task(task_name="apply", ack_type="when_executed")
async def apply(body: str) -> None:
    (store,) = _stores
    if isinstance(store, job.Asyncpg):
        await store.do(body.encode())
    else:
        store.do(body.encode())


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


receiver = FastAPI(lifespan=lifespan)


@receiver.post("/v1/webhooks/klavi")
async def take(request: Request) -> Response:
    body = await request.body()
    if not job.verified(body, request.headers.get("x-klavi-signature", "")):
        return Response(status_code=401)
    events = decode(body, type=list[Raw])
    await asyncio.gather(*(apply.kiq(bytes(one).decode()) for one in events))
    return Response(b'{"accepted":%d}' % len(events), media_type="application/json")
