"""TLS to broker and store, with a certificate authority of one's own; URLs from secret files."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec import Struct

from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import Node, free_port
from tests.support import events as ev
from tests.support.cli import correio
from tests.support.endpoints import SECRET
from tests.support.processes import write_config
from tests.support.tls import HOST, Authority, PostgresTls, broker_settings
from tests.support.world import ROLES, Way, world

NOT_IN_CERTIFICATE = "127.0.0.1"


class Servers(Struct, frozen=True):
    """A broker and a store that speak TLS."""

    node: Node
    tls_port: int
    front: PostgresTls
    database: str

    def broker_url(self, ca: Path, *, host: str = HOST) -> str:
        plain = f"@127.0.0.1:{self.node.port}/"
        url = self.node.url.replace(plain, f"@{host}:{self.tls_port}/")
        return f"amqps{url.removeprefix('amqp')}?cafile={ca}"

    def store_url(self, ca: Path, *, host: str = HOST) -> str:
        user = self.database.removeprefix("postgresql://").partition("@")[0]
        name = self.database.rpartition("/")[2]
        place = f"{user}@{host}:{self.front.port}/{name}"
        return f"postgresql://{place}?sslmode=verify-full&sslrootcert={ca}"


async def doctor(folder: Path, *, broker: str, store: str) -> dict[str, dict[str, Any]]:
    """What ``correio doctor`` finds, by name."""
    config = write_config(
        folder,
        broker={"url": broker},
        store={"url": store, "connect_timeout": 1.0},
        receiver={"spool": str(folder / "spool")},
        source=[{"name": "klavi", "secrets": ["a secret"], "partner_app_ids": [ev.APP]}],
        endpoint=[{"id": "crm", "url": "http://127.0.0.1:9/", "secrets": [SECRET]}],
    )
    _, out, _ = await correio(config, "doctor", "--json")
    return {one["name"]: one for one in orjson.loads(out)["findings"]}


async def work(folder: Path, servers: Servers, ca: Path) -> None:
    """Every process does its work, and connects by TLS alone."""
    broker, store = folder / "broker-url", folder / "store-url"
    broker.write_text(servers.broker_url(ca) + "\n")
    store.write_text(servers.store_url(ca) + "\n")
    env = {"CORREIO_BROKER__URL_FILE": str(broker), "CORREIO_STORE__URL_FILE": str(store)}
    roles = dict.fromkeys((*ROLES, "console"), env)
    async with world(
        folder, servers.node, servers.database, way=Way(env=roles), console={"port": free_port()}
    ) as everything:
        await everything.source.send(rate=20, seconds=1)
        await everything.settled()
        await everything.judge()
        connected = await asyncio.to_thread(
            servers.node.evaluate, "rabbit_networking:connection_info_all([ssl])"
        )
        assert connected.count("{ssl, true}") >= len(roles)
        assert "{ssl, false}" not in connected
    assert servers.front.taken >= len(roles) - 1  # the receiver wants no store


async def refuse(folder: Path, servers: Servers, ours: Path, foreign: Path) -> None:
    """Whoever cannot show a certificate that fits is not talked to, and the doctor says why."""
    good = await doctor(folder, broker=servers.broker_url(ours), store=servers.store_url(ours))
    assert good["broker"]["ok"], good
    assert good["store"]["ok"], good
    for ca, host, said in (
        (foreign, HOST, "certificate"),
        (ours, NOT_IN_CERTIFICATE, "127.0.0.1"),
        (folder / "none.pem", HOST, "none.pem"),
    ):
        found = await doctor(
            folder,
            broker=servers.broker_url(ca, host=host),
            store=servers.store_url(ca, host=host),
        )
        for name, parameter in (("broker", "cafile"), ("store", "sslrootcert")):
            assert not found[name]["ok"], (name, said)
            assert said in found[name]["found"]
            assert parameter in found[name]["remedy"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
async def test_broker_and_store_by_tls(tmp_path: Path, postgres: Postgres, store_url: str) -> None:
    ours, foreign = Authority(tmp_path, "ours"), Authority(tmp_path, "foreign")
    certificate, key = ours.issue(HOST)
    port = free_port()
    settings = broker_settings(ours, certificate, key, port=port)
    node = Node(tmp_path / "rabbitmq", settings=settings)
    front = PostgresTls(certificate, key, server=postgres.port)
    async with front.serving():
        await asyncio.to_thread(node.start)
        try:
            servers = Servers(node, port, front, store_url)
            await work(tmp_path, servers, ours.path)
            await refuse(tmp_path, servers, ours.path, foreign.path)
        finally:
            await asyncio.to_thread(node.stop)
