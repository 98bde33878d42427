"""Correio on PostgreSQL behind PgBouncer, which gives a connection for a transaction only."""

import asyncio
from pathlib import Path

import psycopg
import pytest

from deploy.local.install import find_pgbouncer
from deploy.local.postgres import Postgres
from deploy.local.provide import PrivateBroker
from tests.support.pgbouncer import PgBouncer
from tests.support.world import World, world

CONNECTIONS = 3
"""Fewer than the processes want: they have to share."""


async def fail_over(everything: World, server: Postgres, bouncer: PgBouncer) -> None:
    """The database falls and comes back while the pooler stands; then the pooler is replaced."""
    await everything.source.send(rate=40, seconds=1)
    await asyncio.to_thread(server.kill)
    await everything.source.send(rate=40, seconds=2)
    await asyncio.to_thread(server.start)
    await everything.source.send(rate=40, seconds=1)
    await asyncio.to_thread(bouncer.kill)
    await everything.source.send(rate=40, seconds=1)
    await asyncio.to_thread(bouncer.start)
    await everything.source.send(rate=40, seconds=1)


@pytest.mark.skipif(find_pgbouncer() is None, reason="PgBouncer cannot be had here")
@pytest.mark.timeout(240)
async def test_workers_share_connections_and_outlive_a_failover(
    tmp_path: Path, private_broker: PrivateBroker, private_postgres: Postgres
) -> None:
    with PgBouncer(private_postgres, connections=CONNECTIONS) as bouncer:
        store = bouncer.url_of("postgres")
        async with world(tmp_path, private_broker, store) as everything:
            for kind in ("events", "callbacks"):
                await everything.add(kind, name=f"{kind}-2").until_ready()
            await fail_over(everything, private_postgres, bouncer)
            await everything.settled()
            await everything.judge()
            with psycopg.connect(private_postgres.url) as connection:
                served = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                ).fetchone()
            assert served is not None
            assert 1 <= served[0] <= CONNECTIONS
            assert all(part.running for part in everything.parts.values())
