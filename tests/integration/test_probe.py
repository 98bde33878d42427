"""``correio endpoints test``: one callback over the path of every callback."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.endpoints import SECOND_SECRET, SECRET, Endpoint, serving
from tests.support.processes import write_config


async def correio(folder: Path, *arguments: str, exits: int = 0, **endpoint: Any) -> Any:
    """What ``correio endpoints test`` answers about an endpoint."""
    one = {"id": "crm", "secrets": [SECRET, SECOND_SECRET], "allow_private_network": True}
    config = write_config(folder, endpoint=[one | endpoint])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "console.cli", "endpoints", "test", *arguments, "--json",
        env={**os.environ, "CORREIO_CONFIG": str(config)}, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    text, error = await process.communicate()
    assert process.returncode == exits, error
    return orjson.loads(text) if text else error.decode()


async def test_a_good_endpoint_gets_one_signed_callback(tmp_path: Path) -> None:
    async with serving(Endpoint(secrets=(SECRET, SECOND_SECRET))) as endpoint:
        answer = await correio(tmp_path, "crm", url=endpoint.url)
    (call,) = endpoint.calls
    assert endpoint.wrong == []
    assert (call.content["type"], call.content["data"]) == ("endpoint.test", {"endpoint": "crm"})
    assert (answer["ok"], answer["outcome"], answer["status"]) == (True, "succeeded", 200)
    assert answer["webhookId"] == call.webhook_id


@pytest.mark.parametrize(("status", "outcome"), [(500, "server_error"), (410, "gone")])
async def test_a_refusal_is_told_and_changes_nothing(
    tmp_path: Path, status: int, outcome: str
) -> None:
    async with serving(Endpoint(status)) as endpoint:
        answer = await correio(tmp_path, "crm", url=endpoint.url, exits=1)
    assert (answer["ok"], answer["outcome"], answer["status"]) == (False, outcome, status)
    assert len(endpoint.calls) == 1


async def test_a_forbidden_address_is_never_called(tmp_path: Path) -> None:
    async with serving(Endpoint()) as endpoint:
        answer = await correio(
            tmp_path, "crm", url=endpoint.url, allow_private_network=False, exits=1
        )
    assert answer["outcome"] == "refused_address"
    assert endpoint.calls == []


async def test_an_endpoint_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    said = await correio(tmp_path, "crm", url="http://user:pw@crm.example/", exits=2)
    assert said == "correio: endpoint crm: url must not carry a user or password; use headers\n"
    said = await correio(tmp_path, "nobody", url="http://crm.example/", exits=1)
    assert said == "correio: no endpoint 'nobody' is configured\n"
