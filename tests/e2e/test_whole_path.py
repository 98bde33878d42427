"""From a signed batch over HTTP to state and quarantine, through real processes."""

import asyncio
import hashlib
import hmac
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from deploy.local.rabbitmq import free_port
from shared.broker import topology
from shared.broker.depth import depths
from shared.config import Secret
from tests.support import books
from tests.support import events as ev
from tests.support.processes import process, write_config

KEY = b"the source's key"
LIMIT = 60


async def post(port: int, body: bytes, *, key: bytes = KEY) -> tuple[int, Any]:
    signature = hmac.new(key, body, hashlib.sha256).hexdigest()
    headers = {"X-Klavi-Signature": signature, "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"http://127.0.0.1:{port}/v1/webhooks/klavi", data=body, headers=headers
        ) as answer,
    ):
        return answer.status, orjson.loads(await answer.read())


async def until_stored(url: str, count: int) -> None:
    query = "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM quarantine)"
    async with asyncio.timeout(LIMIT):
        while (await asyncio.to_thread(books.fetch, url, query))[0][0] < count:
            await asyncio.sleep(0.05)


async def test_one_bad_element_of_a_hundred_harms_no_other(
    broker_url: str, store_url: str, tmp_path: Path
) -> None:
    port = free_port()
    config = write_config(
        tmp_path,
        broker={"url": broker_url, "reconnect_max": 0.3},
        store={"url": store_url},
        receiver={"port": port, "spool": str(tmp_path / "spool")},
        source=[{"name": "klavi", "secrets": [KEY.decode()], "partner_app_ids": [ev.APP]}],
    )
    await topology.declare(broker_url)
    batch = [ev.event("link_created", at=i, linkId=f"l{i}") for i in range(99)]
    batch.insert(50, {"eventName": "link_created", "eventType": "api", "payload": 7})
    with (
        process("receiver", config=config, log=tmp_path / "receiver.log") as receiver,
        process("worker", "events", config=config, log=tmp_path / "worker.log") as worker,
    ):
        receiver.start()
        worker.start()
        await receiver.until_ready()
        status, _ = await post(port, ev.dump(batch), key=b"another key")
        assert status == 401
        assert [one.ready for one in await depths(Secret(broker_url))] == [0] * len(topology.QUEUES)

        assert await post(port, ev.dump(batch)) == (200, {"accepted": 100})
        await until_stored(store_url, 100)
        assert receiver.stop(within=10) == 0
        await worker.until_ready()
        assert worker.stop(within=10) == 0
    after = books.read(store_url)
    books.check(after)
    assert after.labels == {"applied": 99}
    assert after.quarantined == {"malformed": 1}
    assert books.fetch(store_url, "SELECT source, reason FROM quarantine") == [
        ("klavi", "malformed")
    ]
