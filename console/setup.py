"""``correio migrate``, ``backup`` and ``send``."""

import hashlib
import hmac
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from console.context import NO, Context, json_option, pass_context, run
from shared.broker import topology
from shared.errors import (
    BrokerUnavailableError,
    ConfigError,
    StoreUnavailableError,
    TopologyError,
)
from shared.store import migrate as store_migrate
from shared.store.backup import back_up

SEND_TIMEOUT = 30

_OF_AN_ADMIN = (
    "only the broker's admin may make queues: run the compose service `migrate`, the Job or the "
    "unit `correio-migrate`"
)


@click.command()
@click.option("--wait", default=0.0, help="Seconds to wait for broker and store to come up.")
@json_option
@pass_context
def migrate(context: Context, wait: float, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """Bring the store's schema and the broker's queues to this release. Safe to repeat."""
    applied = run(_migrate(context, wait))

    def human() -> None:
        for name in applied:
            click.echo(f"applied {name}")
        click.echo("store and broker are up to date")

    answer = {"applied": applied, "queues": list(topology.QUEUES)}
    context.show(answer, as_json=as_json, human=human)


async def _migrate(context: Context, wait: float) -> list[str]:
    applied: list[str] = []
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((StoreUnavailableError, BrokerUnavailableError)),
        wait=wait_random_exponential(multiplier=0.2, max=2),
        stop=stop_after_delay(wait),
        reraise=True,
    ):
        with attempt:
            applied += await store_migrate.migrate(context.config.store.url)
            await _declare(context)
    return applied


async def _declare(context: Context) -> None:
    try:
        await topology.declare(context.config.broker.url)
    except TopologyError as error:
        if "ACCESS_REFUSED" in str(error):
            raise TopologyError(f"{error}; {_OF_AN_ADMIN}") from error
        raise


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@pass_context
def backup(context: Context, file: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """Copy a SQLite store into FILE, its keys into FILE.keys. For PostgreSQL there is pg_dump."""
    size = run(back_up(context.config.store.url, file))
    context.show(
        {"file": str(file), "bytes": size},
        as_json=as_json,
        human=lambda: click.echo(f"{file}: {size} bytes"),
    )


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--source", "name", default="", help="Sign as this source (default: the first).")
@click.option("--url", default="", help="Receiver's address (default: the configured one).")
@click.option("--repeat", default=1, type=click.IntRange(min=1), help="Send each this often.")
@json_option
@pass_context
def send(
    context: Context,
    files: tuple[Path, ...],
    name: str,
    url: str,
    repeat: int,
    as_json: bool,  # noqa: FBT001 - click passes it
) -> None:
    """Sign FILES (or standard input) as a source would, and post them to the receiver."""
    bodies = [one.read_bytes() for one in files] or [sys.stdin.buffer.read()]
    answers = run(_send(context, bodies * repeat, name=name, url=url))

    def human() -> None:
        rows = ((one["status"], orjson.dumps(one["answer"]).decode()) for one in answers)
        context.table("Answers", ("status", "answer"), rows)

    context.show({"answers": answers}, as_json=as_json, human=human)
    if any(one["status"] != 200 for one in answers):  # noqa: PLR2004 - HTTP's own number
        sys.exit(NO)


async def _send(
    context: Context, bodies: list[bytes], *, name: str, url: str
) -> list[dict[str, Any]]:
    sources = [one for one in context.config.source if name in ("", one.name)]
    if not sources:
        raise ConfigError(
            f"no source {name!r} is configured" if name else "no source is configured"
        )
    source = sources[0]
    receiver = context.config.receiver
    base = url or f"http://{receiver.host}:{receiver.port}"
    answers: list[dict[str, Any]] = []
    timeout = aiohttp.ClientTimeout(total=SEND_TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for body in bodies:
            headers = {
                "Content-Type": "application/json",
                "X-Klavi-Timestamp": str(int(time.time())),
            }
            if source.secrets:
                key = source.secrets[0].reveal().encode()
                headers["X-Klavi-Signature"] = hmac.new(key, body, hashlib.sha256).hexdigest()
            address = f"{base.rstrip('/')}/v1/webhooks/{source.name}"
            try:
                async with session.post(address, data=body, headers=headers) as response:
                    answers.append({"status": response.status, "answer": await _json(response)})
            except (aiohttp.ClientError, TimeoutError) as error:
                answers.append({"status": None, "answer": f"{type(error).__name__}: {error}"})
    return answers


async def _json(response: aiohttp.ClientResponse) -> Any:
    text = await response.read()
    try:
        return orjson.loads(text)
    except ValueError:
        return text[:200].decode("utf-8", "replace")
