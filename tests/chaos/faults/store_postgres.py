"""PostgreSQL and the way to it."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import psutil
import psycopg

from deploy.local.postgres import Postgres
from tests.chaos.catalogue import Chapter
from tests.chaos.stage import Stage
from tests.support.deliveries import until_async
from tests.support.proxy import BOTH, Way, Weather

CHAPTER = Chapter(stores=("postgres",))
WAITS = "work pauses, messages wait in the broker, no attempt is spent"


def server(stage: Stage) -> Postgres:
    assert stage.postgres is not None
    return stage.postgres


async def run(stage: Stage, *statements: str) -> None:
    """Statements of an operator, past every proxy."""
    async with await psycopg.AsyncConnection.connect(server(stage).url, autocommit=True) as link:
        for one in statements:
            await link.execute(one)  # type: ignore[call-overload]  # ours, from constants


AMID = (
    "SELECT 1 FROM pg_stat_activity "
    "WHERE application_name = 'correio' AND state = 'idle in transaction'"
)

TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = 'correio' AND pid <> pg_backend_pid()"
)


async def away(stage: Stage) -> None:
    """Return once both workers have noticed."""
    await stage.paused("events", "callbacks")


@CHAPTER.row(
    "store-unreachable",
    fault="nobody reaches the store",
    how="proxy: all connections reset, new ones refused",
    holds=WAITS,
)
async def unreachable(stage: Stage) -> AsyncIterator[None]:
    async with stage.store.cut():
        await away(stage)
        yield


@CHAPTER.row(
    "store-connections-reset",
    fault="all connections to the store break at once, three times",
    how="proxy: reset; new ones pass",
    holds="transactions cut off are made again, each event is applied once",
    seconds=0.0,
)
async def connections_reset(stage: Stage) -> AsyncIterator[None]:
    for _ in range(3):
        before = stage.store["events"].accepted
        stage.store.reset()
        await stage.until(lambda b=before: stage.store["events"].accepted > b)
    yield


@CHAPTER.row(
    "store-black-hole",
    fault="nothing passes to or from the store, connections stand",
    how="proxy: stops reading in both directions",
    holds=WAITS,
    seconds=4.0,
)
async def black_hole(stage: Stage) -> AsyncIterator[None]:
    with stage.store.under(Weather(held=BOTH)):
        yield


@CHAPTER.row(
    "store-half-open",
    fault="a firewall has forgotten the connections; the workers hear nothing of it",
    how="proxy: far ends reset, near ends stand silent; new ones pass",
    holds="the silence is noticed",
    seconds=0.0,
)
async def half_open(stage: Stage) -> AsyncIterator[None]:
    stage.store.sever()
    yield


@CHAPTER.row(
    "store-ghosts",
    fault="the workers lose their connections amid transactions; the store hears nothing of it",
    how="proxy: every packet late, near ends reset, far ends stand silent; new ones pass",
    holds="locks of the ghosts hold nothing up for good",
    seconds=0.0,
)
async def ghosts(stage: Stage) -> AsyncIterator[None]:
    async with await psycopg.AsyncConnection.connect(server(stage).url, autocommit=True) as link:

        async def amid() -> bool:
            return await (await link.execute(AMID)).fetchone() is not None

        with stage.store.under(Weather(delay=0.05)):  # that transactions may last
            await until_async(amid)
            stage.store.desert()
    yield


@CHAPTER.row(
    "store-commit-unseen",
    fault="answers of the store vanish: nobody knows whether a commit was done",
    how="proxy: what comes down is dropped, then the connections are reset",
    holds="what was committed unseen is recognised and not applied twice",
    seconds=2.0,
)
async def commit_unseen(stage: Stage) -> AsyncIterator[None]:
    with stage.store.under(Weather(lost=frozenset({Way.DOWN}))):
        yield


@CHAPTER.row(
    "store-slow",
    fault="every packet to and from the store is 100 ms late",
    how="proxy: delay",
    holds="fewer, larger transactions",
    seconds=3.0,
)
async def slow(stage: Stage) -> AsyncIterator[None]:
    with stage.store.under(Weather(delay=0.1)):
        yield


@CHAPTER.row(
    "store-cut-in-a-statement",
    fault="each connection to the store breaks after 30,000 bytes, amid a statement",
    how="proxy: reset after that many bytes up",
    holds="no half transaction",
    seconds=3.0,
)
async def cut_in_a_statement(stage: Stage) -> AsyncIterator[None]:
    with stage.store.under(Weather(quota=30_000)):
        before = stage.store["events"].accepted
        await stage.until(lambda: stage.store["events"].accepted > before + 2)
        yield


@CHAPTER.row(
    "store-killed",
    fault="the store dies and is started again",
    how="SIGQUIT of PostgreSQL: no checkpoint, recovery at the start",
    holds=WAITS,
)
async def killed(stage: Stage) -> AsyncIterator[None]:
    await asyncio.to_thread(server(stage).kill)
    await away(stage)
    yield
    await asyncio.to_thread(server(stage).start)


@CHAPTER.row(
    "store-restarted",
    fault="the store is restarted, quickly",
    how="fast shutdown of PostgreSQL",
    holds=WAITS,
    seconds=0.0,
)
async def restarted(stage: Stage) -> AsyncIterator[None]:
    await asyncio.to_thread(server(stage).stop)
    yield
    await asyncio.to_thread(server(stage).start)


@CHAPTER.row(
    "store-frozen",
    fault="the store stands still",
    how="SIGSTOP and SIGCONT of every process of PostgreSQL",
    holds=WAITS,
    seconds=4.0,
)
async def frozen(stage: Stage) -> AsyncIterator[None]:
    whole = [psutil.Process(server(stage).pid)]
    whole += whole[0].children(recursive=True)
    _signal(whole, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(whole, signal.SIGCONT)


def _signal(whole: list[psutil.Process], number: signal.Signals) -> None:
    for one in whole:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, number)


@CHAPTER.row(
    "store-read-only",
    fault="the store is a standby for a while, as in a failover",
    how="default_transaction_read_only on, backends terminated",
    holds=WAITS,
)
async def read_only(stage: Stage) -> AsyncIterator[None]:
    on = "ALTER DATABASE postgres SET default_transaction_read_only = on"
    await run(stage, on, TERMINATE)
    await away(stage)
    yield
    off = "ALTER DATABASE postgres RESET default_transaction_read_only"
    await run(stage, "SET default_transaction_read_only = off", off, TERMINATE)


@CHAPTER.row(
    "store-locked",
    fault="somebody holds a lock on the tables, for a migration or a backup gone wrong",
    how="LOCK TABLE events, deliveries IN ACCESS EXCLUSIVE MODE",
    holds=WAITS,
    seconds=3.0,
)
async def locked(stage: Stage) -> AsyncIterator[None]:
    async with await psycopg.AsyncConnection.connect(server(stage).url) as other:
        await other.execute("LOCK TABLE events, deliveries IN ACCESS EXCLUSIVE MODE")
        await stage.paused("events")
        yield
        await other.rollback()


@CHAPTER.row(
    "store-backends-terminated",
    fault="an operator terminates every backend, again and again for 2 s",
    how="pg_terminate_backend",
    holds="transactions cut off are made again, each event is applied once",
    seconds=0.0,
)
async def backends_terminated(stage: Stage) -> AsyncIterator[None]:
    for _ in range(10):
        await run(stage, TERMINATE)
        await asyncio.sleep(0.2)  # the fault itself: between two kills work gets under way anew
    yield


@CHAPTER.row(
    "store-refuses-connections",
    fault="the store takes no connection: too many, or being moved",
    how="ALTER DATABASE … ALLOW_CONNECTIONS false, backends terminated",
    holds=WAITS,
)
async def refuses_connections(stage: Stage) -> AsyncIterator[None]:
    elsewhere = server(stage).url_of("template1")
    async with await psycopg.AsyncConnection.connect(elsewhere, autocommit=True) as link:
        await link.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS false")
        try:
            await link.execute(TERMINATE)
            await away(stage)
            yield
        finally:
            await link.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS true")


@CHAPTER.row(
    "store-disk-full",
    fault="the store's disk is full",
    how="tmpfs filled to the last block; PostgreSQL is started again if it gave up",
    holds=WAITS,
)
async def disk_full(stage: Stage) -> AsyncIterator[None]:
    with stage.store_disk.full():
        await stage.paused("events")
        yield
    if not server(stage).running:
        await asyncio.to_thread(server(stage).start)
