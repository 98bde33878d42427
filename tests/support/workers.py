"""The callbacks worker as a process of its own."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from shared.config import EndpointConfig

TOML = """\
[store]
url = "{store}"
[broker]
reconnect_max = 0.3
[callbacks]
{callbacks}
"""

ENDPOINT = """\
[[endpoint]]
id = "{id}"
url = "{url}"
secrets = [{secrets}]
allow_private_network = true
max_in_flight = {most}
"""


def write_config(
    folder: Path, *, store: str, endpoints: Sequence[EndpointConfig], callbacks: Mapping[str, Any]
) -> Path:
    """The configuration file of a worker."""
    lines = "\n".join(
        f"{name} = {orjson.dumps(value).decode()}" for name, value in callbacks.items()
    )
    text = TOML.format(store=store, callbacks=lines)
    for one in endpoints:
        secrets = ", ".join(f'"{secret.reveal()}"' for secret in one.secrets)
        text += ENDPOINT.format(id=one.id, url=one.url, secrets=secrets, most=one.max_in_flight)
    path = folder / "correio.toml"
    path.write_text(text)
    return path


async def start(config: Path, *, broker: str) -> Process:
    """Start a worker; its log goes beside its configuration."""
    with (config.parent / "worker.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "worker", "callbacks",
            env={**os.environ, "CORREIO_CONFIG": str(config), "CORREIO_BROKER__URL": broker},
            stderr=log,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def running(config: Path, *, broker: str) -> AsyncIterator[Process]:
    """A worker; killed at the end if it still runs."""
    made = await start(config, broker=broker)
    try:
        yield made
    finally:
        await kill(made)


async def kill(worker: Process) -> None:
    """End a worker without a warning."""
    if worker.returncode is None:
        worker.kill()
    await worker.wait()
