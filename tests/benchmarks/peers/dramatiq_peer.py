"""dramatiq: FastAPI takes the batch in a thread, an actor does the job.

``uvicorn tests.benchmarks.peers.dramatiq_peer:receiver`` and
``dramatiq tests.benchmarks.peers.dramatiq_peer --processes 1``. Its queues are classic ones, which
are the only ones that it declares.
"""

import threading

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from msgspec import Raw
from msgspec.json import decode

from tests.benchmarks.peers import job

broker = RabbitmqBroker(url=job.broker_url(), confirm_delivery=True)
dramatiq.set_broker(broker)
_local = threading.local()


def _store() -> job.Sqlite | job.Psycopg:
    """One connection for each thread."""
    if not hasattr(_local, "store"):
        path = job.sqlite_path()
        _local.store = job.Sqlite(path) if path else job.Psycopg(job.store_url())
    return _local.store


@dramatiq.actor(queue_name="peer", max_retries=3)
def apply(body: str) -> None:
    _store().do(body.encode())


receiver = FastAPI()


def publish(events: list[Raw]) -> None:
    for one in events:
        apply.send(bytes(one).decode())


@receiver.post("/v1/webhooks/klavi")
async def take(request: Request) -> Response:
    body = await request.body()
    if not job.verified(body, request.headers.get("x-klavi-signature", "")):
        return Response(status_code=401)
    events = decode(body, type=list[Raw])
    await run_in_threadpool(publish, events)
    return Response(b'{"accepted":%d}' % len(events), media_type="application/json")
