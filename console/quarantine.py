"""``correio quarantine``: what could not be understood."""

import sys
from typing import Any

import click

from console.context import NO, Context, iso, json_option, pass_context, run
from console.publish import publishing
from shared.broker import headers, topology
from shared.broker.publisher import Outgoing
from shared.privacy import mask
from shared.store.queries import QuarantineRow, Queries


@click.group()
def quarantine() -> None:
    """List, show, replay or discard what could not be understood."""


def entry_answer(one: QuarantineRow) -> dict[str, Any]:
    """An entry as ``--json`` shows it."""
    return {
        "id": one.id,
        "reason": one.reason,
        "detail": one.detail,
        "source": one.source,
        "batchId": one.batch_id,
        "receivedAt": iso(one.received_at),
        "seen": one.seen,
        "status": one.status,
        "eventId": one.event_id or None,
    }


@quarantine.command("list")
@click.option("--reason", default="", help="Only this reason.")
@click.option(
    "--status", default="open", type=click.Choice(["open", "replayed", "discarded", "erased", ""])
)
@click.option("--limit", default=100, type=click.IntRange(min=1))
@json_option
@pass_context
def list_(context: Context, reason: str, status: str, limit: int, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """List entries, newest first."""

    async def find() -> list[QuarantineRow]:
        async with context.queries() as queries:
            return await queries.quarantine(reason=reason, status=status, limit=limit)

    found = [entry_answer(one) for one in run(find())]

    def human() -> None:
        columns = (
            "id",
            "reason",
            "detail",
            "source",
            "batch",
            "received",
            "seen",
            "status",
            "event",
        )
        context.table("Quarantine", columns, (list(one.values()) for one in found))

    context.show({"entries": found}, as_json=as_json, human=human)


@quarantine.command()
@click.argument("id", metavar="ID")
@click.option("--body", is_flag=True, help="Show the body, tax ids masked.")
@click.option("--unmask", is_flag=True, help="Show the body as it came; this is recorded.")
@json_option
@pass_context
def show(context: Context, id: str, body: bool, unmask: bool, as_json: bool) -> None:  # noqa: A002, FBT001 - click passes them by the names that the usage shows
    """Show one entry."""
    answer = run(quarantined(context, id, body=body, unmask=unmask))
    if answer is None:
        context.show(None, as_json=as_json, human=lambda: click.echo("unknown", err=True))
        sys.exit(NO)
    context.show(
        answer,
        as_json=as_json,
        human=lambda: context.table(f"Quarantine {id}", ("", ""), answer.items()),
    )


async def quarantined(
    context: Context,
    id: str,  # noqa: A002 - as above
    *,
    body: bool,
    unmask: bool = False,
) -> dict[str, Any] | None:
    """One entry, its body only if asked for; looking at it unmasked is recorded."""
    async with context.queries() as queries:
        found = await queries.quarantined(id)
        if found is None:
            return None
        row, raw, _ = found
        answer = entry_answer(row)
        if unmask:
            await _note(context, queries, "quarantine.unmask", id)
        if body or unmask:
            text = raw.decode("utf-8", "replace")
            answer["body"] = text if unmask else mask(text)
        return answer


@quarantine.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--reason", default="", help="All open entries of this reason.")
@click.option("--yes", is_flag=True, help="Do it; without this the count is shown only.")
@json_option
@pass_context
def replay(context: Context, ids: tuple[str, ...], reason: str, yes: bool, as_json: bool) -> None:  # noqa: FBT001 - click passes them
    """Send entries through the events worker once more; one that is read this time is closed."""
    _require(ids, reason)
    count = run(replay_entries(context, ids, reason, really=yes))
    _report(context, count, "replayed", really=yes, as_json=as_json)


async def replay_entries(
    context: Context, ids: tuple[str, ...], reason: str, *, really: bool
) -> int:
    """Publish the entries meant once more, if `really`; returns how many there are."""
    async with context.queries() as queries:
        chosen = await _choose(queries, ids, reason)
        if not really or not chosen:
            return len(chosen)
        async with publishing(context.config.broker) as publisher:
            for entry_id in context.progress(chosen, "Replaying"):
                found = await queries.quarantined(entry_id)
                if found is None:
                    continue
                row, body, traceparent = found
                fields = {
                    headers.SOURCE: row.source,
                    headers.RECEIVED_AT: row.received_at,
                    headers.BATCH_ID: row.batch_id,
                    headers.EVENT_ID: row.event_id,
                    headers.TRACEPARENT: traceparent,
                    headers.QUARANTINE_ID: entry_id,
                }
                await publisher.publish([Outgoing(body, topology.EVENTS, topology.EVENTS, fields)])
        await _note(context, queries, "quarantine.replay", f"{len(chosen)} entries")
        return len(chosen)


@quarantine.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--reason", default="", help="All open entries of this reason.")
@click.option("--yes", is_flag=True, help="Do it; without this the count is shown only.")
@json_option
@pass_context
def discard(context: Context, ids: tuple[str, ...], reason: str, yes: bool, as_json: bool) -> None:  # noqa: FBT001 - click passes them
    """Close entries for good; they stay on record."""
    _require(ids, reason)
    count = run(discard_entries(context, ids, reason, really=yes))
    _report(context, count, "discarded", really=yes, as_json=as_json)


async def open_entries(context: Context, ids: tuple[str, ...], reason: str) -> list[str]:
    """Ids of the open entries meant, oldest first."""
    async with context.queries() as queries:
        return await _choose(queries, ids, reason)


async def discard_entries(
    context: Context, ids: tuple[str, ...], reason: str, *, really: bool
) -> int:
    """Close the entries meant for good, if `really`; returns how many there are."""
    async with context.queries() as queries:
        chosen = await _choose(queries, ids, reason)
        if not really or not chosen:
            return len(chosen)
        count = await queries.discard(chosen, by=context.actor, now=context.clock.now())
        await _note(context, queries, "quarantine.discard", f"{count} entries")
        return count


def _require(ids: tuple[str, ...], reason: str) -> None:
    if bool(ids) == bool(reason):
        raise click.UsageError("name entries, or give --reason")


async def _choose(queries: Queries, ids: tuple[str, ...], reason: str) -> list[str]:
    """The open entries meant, oldest first."""
    if reason:
        found = await queries.quarantine(reason=reason, limit=1_000_000)
        return [one.id for one in reversed(found)]
    rows = [await queries.quarantined(one) for one in ids]
    return [one[0].id for one in rows if one is not None and one[0].status == "open"]


async def _note(context: Context, queries: Queries, action: str, target: str) -> None:
    await queries.note(
        actor=context.actor, action=action, target=target, detail="", now=context.clock.now()
    )


def _report(context: Context, count: int, verb: str, *, really: bool, as_json: bool) -> None:
    def human() -> None:
        if really:
            click.echo(f"{verb}: {count}")
        else:
            click.echo(f"would be {verb}: {count}; add --yes to do it")

    context.show({"count": count, "dryRun": not really}, as_json=as_json, human=human)
    if not count:
        sys.exit(NO)
