"""``correio deliveries``: what endpoints were told, and telling them again."""

import sys
from collections.abc import Callable
from typing import Any

import click
from rich.progress import track

from console.context import NO, Context, Moment, iso, json_option, pass_context, run
from console.look import delivery_answer
from shared.ids import new_id
from shared.privacy import mask
from shared.store.lists import DeliveryFilter, DeliveryRow
from shared.store.queries import CHUNK
from shared.store.rows import DeliveryState

STATES = [state.value for state in DeliveryState]


@click.group()
def deliveries() -> None:
    """List, show, replay or cancel deliveries."""


def filters(command: Callable[..., None]) -> Callable[..., None]:
    """The filter options that list, replay and cancel share."""
    for option in reversed((
        click.option("--endpoint", default="", help="Only this endpoint."),
        click.option("--type", "type_", default="", help="Only this notice type."),
        click.option("--aggregate", default="", help="Only about this link, consent or request."),
        click.option("--error", default="", help="Only with this outcome or error text."),
        click.option("--since", type=Moment(), help="Only created since (ISO 8601, or 15m, 2h)."),
        click.option("--until", type=Moment(), help="Only created before."),
    )):  # fmt: skip
        command = option(command)
    return command


def _filter(options: dict[str, Any], states: tuple[str, ...]) -> DeliveryFilter:
    return DeliveryFilter(
        states=states,
        endpoint=options["endpoint"],
        type=options["type_"],
        aggregate_id=options["aggregate"],
        error=options["error"],
        since=options["since"],
        until=options["until"],
    )


def row_answer(one: DeliveryRow) -> dict[str, Any]:
    """A delivery as a list shows it."""
    return {
        "id": one.id,
        "endpoint": one.endpoint,
        "type": one.type,
        "aggregate": one.aggregate.kind,
        "aggregateId": one.aggregate.id,
        "version": one.version,
        "state": one.state,
        "attempts": one.attempts,
        "createdAt": iso(one.created_at),
        "lastOutcome": one.last_outcome or None,
        "lastError": one.last_error or None,
        "replay": one.replay or None,
    }


@deliveries.command("list")
@filters
@click.option("--state", "states", multiple=True, type=click.Choice(STATES))
@click.option("--replay", default="", help="Only those of this replay.")
@click.option("--limit", default=100, type=click.IntRange(min=1))
@json_option
@pass_context
def list_(
    context: Context,
    /,
    states: tuple[str, ...],
    replay: str,
    limit: int,
    as_json: bool,  # noqa: FBT001 - click passes it
    **options: Any,
) -> None:
    """List deliveries, newest first."""
    wanted = _filter(options, states)
    if replay:
        wanted = DeliveryFilter(states=states, replay=replay)

    async def find() -> tuple[int, list[DeliveryRow]]:
        async with context.queries() as queries:
            return await queries.count_deliveries(wanted), await queries.deliveries(
                wanted, limit=limit
            )

    count, rows = run(find())
    found = [row_answer(one) for one in rows]

    def human() -> None:
        columns = ("id", "endpoint", "type", "state", "attempts", "created", "last outcome")
        context.table(
            f"Deliveries ({count})",
            columns,
            (
                (r.id, r.endpoint, r.type, r.state, r.attempts, iso(r.created_at), r.last_outcome)
                for r in rows
            ),
        )

    context.show({"count": count, "deliveries": found}, as_json=as_json, human=human)


@deliveries.command()
@click.argument("id", metavar="ID")
@json_option
@pass_context
def show(context: Context, id: str, as_json: bool) -> None:  # noqa: A002, FBT001 - click passes them by the names that the usage shows
    """Show one delivery with its attempts; tax ids in an endpoint's answer are masked."""
    answer = run(one_delivery(context, id))
    if answer is None:
        context.show(None, as_json=as_json, human=lambda: click.echo("unknown", err=True))
        sys.exit(NO)

    def human() -> None:
        attempts = answer["attempts"]
        rest = {name: value for name, value in answer.items() if name != "attempts"}
        context.table(f"Delivery {id}", ("", ""), rest.items())
        columns = ("number", "at", "outcome", "status", "seconds", "error", "answer")
        context.table("Attempts", columns, (list(one.values()) for one in attempts))

    context.show(answer, as_json=as_json, human=human)


async def one_delivery(context: Context, id: str) -> dict[str, Any] | None:  # noqa: A002 - as above
    """One delivery with its attempts and the masked answers kept of them."""
    async with context.queries() as queries:
        row = await queries.delivery(id)
        if row is None:
            return None
        attempts = (await queries.attempts_of([row])).get(id, [])
        answer = delivery_answer(row, attempts)
        for made, attempt in zip(answer["attempts"], attempts, strict=True):
            made["answer"] = mask(attempt.answer.decode("utf-8", "replace")) or None
        return answer


@deliveries.command()
@filters
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--include-delivered", is_flag=True, help="Also what was delivered.")
@click.option("--rate", default=50.0, type=click.FloatRange(min=0.1), help="Attempts per second.")
@click.option("--yes", is_flag=True, help="Do it; without this the count is shown only.")
@json_option
@pass_context
def replay(
    context: Context,
    /,
    ids: tuple[str, ...],
    include_delivered: bool,  # noqa: FBT001 - click passes it
    rate: float,
    yes: bool,  # noqa: FBT001 - click passes it
    as_json: bool,  # noqa: FBT001 - click passes it
    **options: Any,
) -> None:
    """Give exhausted deliveries a new round of attempts, at a bounded rate."""
    states = ("exhausted", "delivered") if include_delivered else ("exhausted",)
    wanted = _filter(options, states)
    answer = run(replay_deliveries(context, wanted, ids=ids, rate=rate, really=yes))

    def human() -> None:
        if yes:
            click.echo(f"replay {answer['replay']}: {answer['count']} deliveries")
            click.echo(f"follow: correio deliveries list --replay {answer['replay']}")
            click.echo(f"stop:   correio deliveries cancel --replay {answer['replay']} --yes")
        else:
            click.echo(f"would be replayed: {answer['count']}; add --yes to do it")

    context.show(answer, as_json=as_json, human=human)
    if not answer["count"]:
        sys.exit(NO)


async def replay_deliveries(
    context: Context, wanted: DeliveryFilter, *, ids: tuple[str, ...], rate: float, really: bool
) -> dict[str, Any]:
    """Give the deliveries meant a new round, `rate` a second, if `really`; says how many."""
    async with context.queries() as queries:
        if not really and not ids:
            count = await queries.count_deliveries(wanted)
            return {"count": count, "dryRun": True, "replay": None}
        chosen = list(ids) or await queries.delivery_ids(wanted)
        if ids:
            rows = [await queries.delivery(one) for one in ids]
            chosen = [one.id for one in rows if one and one.state in wanted.states]
        if not really or not chosen:
            return {"count": len(chosen), "dryRun": not really, "replay": None}
        replay_id = new_id()
        await queries.note(
            actor=context.actor,
            action="deliveries.replay",
            target=replay_id,
            detail=f"{len(chosen)} deliveries at {rate:g}/s",
            now=context.clock.now(),
        )
        start = context.clock.now()
        count = 0
        chunks = range(0, len(chosen), CHUNK)
        for at in track(chunks, "Replaying", console=context.screen, transient=True,
                        disable=not context.screen.is_terminal):  # fmt: skip
            some = chosen[at : at + CHUNK]
            due = [start + int((at + i) * 1000 / rate) for i in range(len(some))]
            count += await queries.replay(some, states=wanted.states, replay=replay_id, due=due)
        return {"count": count, "dryRun": False, "replay": replay_id}


@deliveries.command()
@filters
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--replay", "replay_id", default="", help="Stop this replay.")
@click.option("--yes", is_flag=True, help="Do it; without this the count is shown only.")
@json_option
@pass_context
def cancel(
    context: Context,
    /,
    ids: tuple[str, ...],
    replay_id: str,
    yes: bool,  # noqa: FBT001 - click passes it
    as_json: bool,  # noqa: FBT001 - click passes it
    **options: Any,
) -> None:
    """Cancel deliveries that wait, or stop a replay (what it has not attempted is as before)."""
    wanted = _filter(options, ("pending", "retrying", "held", "exhausted"))
    restricted = any(value not in ("", None) for value in options.values())
    if sum(map(bool, (ids, replay_id, restricted))) != 1:
        raise click.UsageError("name deliveries, or give --replay, or give filters")
    count = run(cancel_deliveries(context, wanted, ids=ids, replay_id=replay_id, really=yes))

    def human() -> None:
        click.echo(f"cancelled: {count}" if yes else f"would be cancelled: {count}; add --yes")

    context.show({"count": count, "dryRun": not yes}, as_json=as_json, human=human)
    if not count:
        sys.exit(NO)


async def cancel_deliveries(
    context: Context,
    wanted: DeliveryFilter,
    *,
    ids: tuple[str, ...],
    replay_id: str,
    really: bool,
) -> int:
    """Cancel the deliveries meant, or stop a replay, if `really`; returns how many."""
    async with context.queries() as queries:
        if replay_id and not really:
            return await queries.count_deliveries(
                DeliveryFilter(states=("pending",), replay=replay_id)
            )
        if replay_id:
            count = await queries.cancel_replay(replay_id)
        else:
            if not really:
                return len(ids) or await queries.count_deliveries(wanted)
            chosen = list(ids) or await queries.delivery_ids(wanted)
            count = 0
            for some in _chunks(chosen):
                count += await queries.cancel(some, now=context.clock.now())
        await queries.note(
            actor=context.actor,
            action="deliveries.cancel",
            target=replay_id or "filter",
            detail=f"{count} deliveries",
            now=context.clock.now(),
        )
        return count


def _chunks(ids: list[str]) -> list[list[str]]:
    return [ids[at : at + CHUNK] for at in range(0, len(ids), CHUNK)]
