"""``correio`` within the test's own process: quicker than a process for each command."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import structlog
from click.testing import CliRunner

from console.cli import run
from shared.clock import SystemClock
from shared.config import Config, EndpointConfig, Secret
from shared.store.port import Store
from tests.support import events as ev
from tests.support.processes import write_config
from worker.events.apply import Applier
from worker.events.arrivals import Arrival

ENDPOINT = {"id": "crm", "url": "http://127.0.0.1:9/", "secrets": ["whsec_" + "c2VjcmV0" * 4]}
SOURCE = {"name": "klavi", "secrets": ["a secret"], "partner_app_ids": [ev.APP]}
CONFIG = Config(endpoint=(EndpointConfig(id="crm", url="http://x", secrets=(Secret("s"),)),))
"""That of a worker which fills a store for the command line to look at."""


class Cli:
    """Runs ``correio`` with a configuration of the test's own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def __call__(self, *arguments: str, exits: int = 0) -> Any:
        """The JSON that a command prints."""
        return orjson.loads(await self.text(*arguments, "--json", exits=exits))

    async def text(self, *arguments: str, exits: int = 0) -> str:
        """What a command prints."""
        status, out, err = await correio(self.path, *arguments)
        assert status == exits, (arguments, out, err)
        return out or err


def set_up(folder: Path, broker: str, store: str) -> Cli:
    """``correio`` with one source and one endpoint, on a machine where a receiver has run."""
    (folder / "spool").mkdir(exist_ok=True)
    return Cli(write_config(
        folder,
        broker={"url": broker, "connect_timeout": 2.0},
        store={"url": store, "connect_timeout": 1.0},
        receiver={"spool": str(folder / "spool"), "port": 1},
        source=[SOURCE],
        endpoint=[ENDPOINT],
    ))  # fmt: skip


async def fill(store: Store) -> None:
    """Apply the ten documented events with ids and times of their own, and one unreadable."""
    applier = Applier(store, CONFIG, clock=SystemClock())
    made = [ev.event(name, at=i) for i, name in enumerate(ev.NAMES)]
    (deleted,) = (one for one in made if one["eventName"] == "consent_deleted_by_user")
    deleted["payload"]["consents"]["consentId"] = "gone"
    bodies = [ev.dump(one) for one in made]
    bodies += [bodies[0], b'{"cpf":"25872252137"}']
    await applier.apply([Arrival(one, "klavi", "b", ev.EPOCH) for one in bodies])


async def correio(config: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    return await asyncio.to_thread(_run, config, arguments)


def _run(config: Path, arguments: tuple[str, ...]) -> tuple[int, str, str]:
    runner = CliRunner(env={"CORREIO_CONFIG": str(config)})
    with runner.isolation() as (out, err, _), _logs_apart():
        try:
            status = run(arguments)
        except SystemExit as left:
            status = int(left.code or 0)
    return status, out.getvalue().decode(), err.getvalue().decode()


@contextlib.contextmanager
def _logs_apart() -> Iterator[None]:
    """Let lines of the log go to standard error, as `console.cli.main` does for a process."""
    before = structlog.get_config()
    structlog.configure(logger_factory=lambda *_: structlog.WriteLogger(sys.stderr))
    try:
        yield
    finally:
        structlog.configure(**before)
