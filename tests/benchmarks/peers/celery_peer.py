"""Celery: FastAPI takes the batch in a thread, a task does the job.

``uvicorn tests.benchmarks.peers.celery_peer:receiver`` and
``celery -A tests.benchmarks.peers.celery_peer:app worker --concurrency 1``.
"""

from celery import Celery
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from kombu import Queue
from msgspec import Raw
from msgspec.json import decode

from tests.benchmarks.peers import job

app = Celery("peer", broker=job.broker_url())
app.conf.update(
    task_queues=[Queue("peer.events", queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue="peer.events",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=100,
    worker_detect_quorum_queues=True,
    broker_transport_options={"confirm_publish": True},
    worker_hijack_root_logger=False,
)
_stores: list[job.Sqlite | job.Psycopg] = []


def _store() -> job.Sqlite | job.Psycopg:
    """One connection for each process."""
    if not _stores:
        path = job.sqlite_path()
        _stores.append(job.Sqlite(path) if path else job.Psycopg(job.store_url()))
    return _stores[0]


@app.task(name="apply")
def apply(body: str) -> None:
    _store().do(body.encode())


receiver = FastAPI()


def publish(events: list[Raw]) -> None:
    for one in events:
        apply.delay(bytes(one).decode())


@receiver.post("/v1/webhooks/klavi")
async def take(request: Request) -> Response:
    body = await request.body()
    if not job.verified(body, request.headers.get("x-klavi-signature", "")):
        return Response(status_code=401)
    events = decode(body, type=list[Raw])
    await run_in_threadpool(publish, events)
    return Response(b'{"accepted":%d}' % len(events), media_type="application/json")
