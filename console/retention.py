"""``correio retention``: what is over its age, and removing it."""

import sys
from typing import Any

import click

from console.context import NO, Context, iso, json_option, pass_context, run
from shared.retention import Retention
from shared.store.queries import Queries


@click.command()
@click.option("--yes", is_flag=True, help="Remove it now, instead of showing what would go.")
@json_option
@pass_context
def retention(context: Context, yes: bool, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """Show what is over its age and would go; with --yes remove it. Counting reads whole tables."""
    if yes:
        _remove(context, as_json=as_json)
        return
    answer = run(_due(context))

    def human() -> None:
        context.table(
            "Over its age",
            ("what", "kept for (days)", "goes if older than", "would go"),
            (
                (one["kind"], one["days"] or "ever", one["before"], one["count"])
                for one in answer["due"]
            ),
        )
        context.table("Oldest", ("table", "since"), answer["oldest"].items())
        click.echo(f"the last pass ended at {answer['endedAt'] or 'no time yet'}")

    context.show(answer, as_json=as_json, human=human)


def _remove(context: Context, *, as_json: bool) -> None:
    removed = run(_removed(context))

    def human() -> None:
        if removed is None:
            click.echo("another process makes a pass right now", err=True)
        else:
            context.table("Removed", ("table", "rows"), sorted(removed.items()))

    context.show({"removed": removed}, as_json=as_json, human=human)
    if removed is None:
        sys.exit(NO)


async def _due(context: Context) -> dict[str, Any]:
    async with context.store() as store:
        kept = Retention(store, context.config.retention, clock=context.clock)
        ended = await kept.ended_at()
        return {
            "due": [
                {
                    "kind": one.kind.value,
                    "days": one.days,
                    "before": iso(one.before) if one.before else None,
                    "count": one.count,
                }
                for one in await kept.due()
            ],
            "oldest": {table: iso(at) for table, at in (await kept.oldest()).items()},
            "endedAt": iso(ended),
        }


async def _removed(context: Context) -> dict[str, int] | None:
    async with context.store() as store:
        kept = Retention(store, context.config.retention, clock=context.clock)
        removed = await kept.run_now()
        if removed is None:
            return None
        await Queries(store).note(
            actor=context.actor,
            action="retention",
            target="store",
            detail=f"{sum(removed.values())} rows",
            now=context.clock.now(),
        )
        return dict(removed)
