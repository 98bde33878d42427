"""``correio endpoints``: who gets callbacks, and whether just now."""

import asyncio
import sys
from typing import Any

import click
import orjson

from console.context import NO, USAGE, Context, iso, json_option, pass_context, run
from shared.errors import ConfigError, CorreioError
from shared.store.queries import Queries
from shared.store.rows import EndpointStatus


@click.group()
def endpoints() -> None:
    """List, pause, resume or test endpoints."""


@endpoints.command("list")
@json_option
@pass_context
def list_(context: Context, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """List endpoints with their status and how many deliveries stand in each state."""
    found = run(endpoints_answer(context))

    def human() -> None:
        columns = ("id", "status", "since", "reason", "types", "deliveries")
        context.table(
            "Endpoints",
            columns,
            (
                (
                    one["id"], one["status"], one["changedAt"], one["reason"],
                    ", ".join(one["types"]),
                    ", ".join(f"{state} {n}" for state, n in one["deliveries"].items()),
                )
                for one in found
            ),
        )  # fmt: skip

    context.show({"endpoints": found}, as_json=as_json, human=human)


async def endpoints_answer(context: Context) -> list[dict[str, Any]]:
    """Every endpoint, configured or known to the store, with its status and deliveries."""
    async with context.store() as store:
        rows = await store.endpoint_rows()
        counts = await Queries(store).endpoint_counts()
    configured = {one.id: one for one in context.config.endpoint}
    found = []
    for name in sorted({*configured, *rows, *counts}):
        row, config = rows.get(name), configured.get(name)
        status = row.status if row else EndpointStatus.ENABLED
        found.append({
            "id": name,
            "status": status.value if config else "removed",
            "reason": row.reason if row else "",
            "changedAt": iso(row.changed_at) if row else None,
            "types": list(config.types) if config else [],
            "maxInFlight": config.max_in_flight if config else None,
            "deliveries": counts.get(name, {}),
        })  # fmt: skip
    return found


@endpoints.command()
@click.argument("id", metavar="ID")
@click.option("--reason", default="paused by an operator", help="Kept for the record.")
@json_option
@pass_context
def pause(context: Context, id: str, reason: str, as_json: bool) -> None:  # noqa: A002, FBT001 - click passes them by the names that the usage shows
    """Hold an endpoint's deliveries until it is resumed."""
    _set(context, id, EndpointStatus.PAUSED, reason, as_json=as_json)


@endpoints.command()
@click.argument("id", metavar="ID")
@json_option
@pass_context
def resume(context: Context, id: str, as_json: bool) -> None:  # noqa: A002, FBT001 - click passes them by the names that the usage shows
    """Deliver again, what was held at a bounded rate; also after a 410 disabled the endpoint."""
    _set(context, id, EndpointStatus.ENABLED, "", as_json=as_json)


@endpoints.command()
@click.argument("id", metavar="ID")
@json_option
@pass_context
def test(context: Context, id: str, as_json: bool) -> None:  # noqa: A002, FBT001 - click passes them by the names that the usage shows
    """Send one signed test callback from this machine, just as a worker would send it."""
    _require(context, id)
    answer = run(probe(id))

    def human() -> None:
        said = answer["error"] or f"answered {answer['status']}"
        click.echo(f"{id}: {answer['outcome']}: {said} after {answer['durationSeconds']:g} s")

    context.show(answer, as_json=as_json, human=human)
    if not answer["ok"]:
        sys.exit(NO)


async def probe(endpoint: str) -> dict[str, Any]:
    """Have a worker's own code make the call, in a process of its own.

    Raises:
        CorreioError: it ended without an answer.
        ConfigError: the endpoint cannot be used as it is configured.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "probe", endpoint, stdout=asyncio.subprocess.PIPE
    )
    text, _ = await process.communicate()
    try:
        answer: dict[str, Any] = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise CorreioError("the test process ended without an answer") from None
    if process.returncode == USAGE:
        raise ConfigError(answer["error"])
    return answer


def _require(context: Context, endpoint: str) -> None:
    if endpoint not in {one.id for one in context.config.endpoint}:
        click.echo(f"correio: no endpoint {endpoint!r} is configured", err=True)
        sys.exit(NO)


def _set(
    context: Context, endpoint: str, status: EndpointStatus, reason: str, *, as_json: bool
) -> None:
    _require(context, endpoint)
    run(set_endpoint(context, endpoint, status, reason))
    context.show(
        {"id": endpoint, "status": status.value},
        as_json=as_json,
        human=lambda: click.echo(f"{endpoint}: {status.value}"),
    )


async def set_endpoint(
    context: Context, endpoint: str, status: EndpointStatus, reason: str
) -> None:
    """Pause or resume an endpoint, and record who did."""
    async with context.store() as store:
        now = context.clock.now()
        await store.set_endpoint(endpoint, status, reason=reason, now=now)
        await Queries(store).note(
            actor=context.actor,
            action=f"endpoint.{status.value}",
            target=endpoint,
            detail=reason,
            now=now,
        )
