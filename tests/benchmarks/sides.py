"""Who is compared: Correio and the peers, each started in the way its own documentation shows."""

import base64
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from deploy.local.rabbitmq import free_port
from shared.broker import topology
from tests.benchmarks import traffic
from tests.benchmarks.peers import job
from tests.benchmarks.rig import Rig, Running, answers, prepare, run_sql
from tests.support.endpoints import SECRET as ENDPOINT_SECRET
from tests.support.processes import write_config

SEALING_KEY = "bench:" + base64.b64encode(b"k" * 32).decode()
SERVE = ("--host", "127.0.0.1", "--no-access-log", "--log-level", "warning", "--port")


class Place(Struct, frozen=True):
    """Where a side works."""

    rig: Rig
    folder: Path
    broker: str
    store: str = ""


class Correio:
    """The full product: signatures, all limits, mandatory and confirmed, quorum queue."""

    name = "Correio"
    queue = topology.EVENTS
    table = "events"

    async def prepare(self, place: Place) -> None:
        await prepare(place.broker, place.store)
        self.config(place)

    def config(self, place: Place) -> Path:
        return write_config(
            place.folder,
            broker={"url": place.broker},
            store={"url": place.store or f"sqlite:///{place.folder}/store.db"},
            receiver={"spool": str(place.folder / "spool")},
            sealing={"keys": SEALING_KEY},
            source=[{
                "name": "klavi", "secrets": [traffic.SECRET], "partner_app_ids": ["12345678"],
            }],
            endpoint=[{
                "id": "crm", "url": "https://crm.example.com/", "secrets": [ENDPOINT_SECRET],
            }],
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def receiver(self, place: Place) -> AsyncIterator[tuple[int, Running]]:
        port, ops = free_port(), free_port()
        env = {
            "CORREIO_CONFIG": str(place.folder / "correio.toml"),
            "CORREIO_RECEIVER__PORT": str(port),
            "CORREIO_OPS__PORT": str(ops),
        }
        with place.rig.running(
            ("python", "-m", "receiver"), folder=place.folder, env=env
        ) as running:
            await answers(ops, running, path="/readyz")
            yield port, running

    @contextlib.contextmanager
    def worker(self, place: Place) -> Iterator[Running]:
        env = {"CORREIO_CONFIG": str(place.folder / "correio.toml")}
        with place.rig.running(
            ("python", "-m", "worker", "events"), folder=place.folder, env=env
        ) as running:
            yield running


class Peer:
    """FastAPI or FastStream before a broker library, the library's own worker behind it."""

    def __init__(
        self,
        name: str,
        module: str,
        worker: tuple[str, ...],
        *,
        queue: str = "peer.events",
    ) -> None:
        self.name = name
        self.queue = queue
        self.table = "inbox"
        self._module = f"tests.benchmarks.peers.{module}"
        self._worker = worker

    async def prepare(self, place: Place) -> None:
        """Make its tables; it declares its queue itself."""
        if place.store.startswith("postgresql:"):
            run_sql(place.store, *job.schema(postgres=True))

    def _env(self, place: Place) -> Mapping[str, str]:
        store = place.store or f"sqlite:///{place.folder}/store.db"
        return {"BENCH_BROKER": place.broker, "BENCH_STORE": store}

    @contextlib.asynccontextmanager
    async def receiver(self, place: Place) -> AsyncIterator[tuple[int, Running]]:
        port = free_port()
        with place.rig.running(
            ("uvicorn", f"{self._module}:receiver", *SERVE, str(port)),
            folder=place.folder, env=self._env(place),
        ) as running:  # fmt: skip
            await answers(port, running)
            yield port, running

    @contextlib.contextmanager
    def worker(self, place: Place) -> Iterator[Running]:
        with place.rig.running(self._worker, folder=place.folder, env=self._env(place)) as running:
            yield running


Side = Correio | Peer

CORREIO = Correio()

FASTSTREAM = Peer(
    "FastStream", "faststream_peer", ("python", "-m", "tests.benchmarks.peers.faststream_peer")
)
TASKIQ = Peer(
    "FastAPI + taskiq-aio-pika",
    "taskiq_peer",
    (
        "taskiq", "worker", "tests.benchmarks.peers.taskiq_peer:broker", "--workers", "1",
        "--log-level", "WARNING", "--max-async-tasks", "100",
    ),
)  # fmt: skip
DRAMATIQ = Peer(
    "FastAPI + dramatiq",
    "dramatiq_peer",
    ("dramatiq", "tests.benchmarks.peers.dramatiq_peer", "--processes", "1"),
    queue="peer",
)
CELERY = Peer(
    "FastAPI + Celery",
    "celery_peer",
    (
        "celery", "-A", "tests.benchmarks.peers.celery_peer:app", "worker", "--concurrency", "1",
        "--loglevel", "WARNING", "--without-gossip", "--without-mingle",
    ),
)  # fmt: skip
OTHERS = (TASKIQ, DRAMATIQ, CELERY)
PEERS = (FASTSTREAM, *OTHERS)
