"""``correio reconcile``: do the books balance?"""

import sys
from typing import Any

import click

from console.context import NO, Context, json_option, pass_context, run
from console.spool import look_into, why_unseen
from shared.broker.depth import depths
from shared.errors import CorreioError
from shared.store.audit import Check, audit


@click.command()
@click.option(
    "--late-after",
    default=300.0,
    type=click.FloatRange(min=0),
    help="Seconds past its due time after which a waiting delivery is late.",
)
@json_option
@pass_context
def reconcile(context: Context, late_after: float, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """Audit the books: events, state, versions, notifications, attempts. Exit 1 if they do not balance."""  # noqa: E501 - click shows the first line whole
    checks = run(_audited(context, late_after))
    balanced = all(one.ok for one in checks)
    beside = run(_beside(context))
    unavailable = [name for name, count in beside.items() if count is None]
    answer = {
        "balanced": balanced,
        "checks": [
            {"name": c.name, "ok": c.ok, "expected": c.expected, "found": c.found} for c in checks
        ],
        "beside": beside,
        "unavailable": unavailable,
    }

    def human() -> None:
        rows = (("ok" if c.ok else "FAILED", c.name, c.expected, c.found) for c in checks)
        context.table("Books", ("", "check", "expected", "found"), rows)
        seen = [one for one in beside.items() if one[1] is not None]
        context.table("Still under way", ("where", "messages"), seen)
        for name in unavailable:
            why = f": {why_unseen(context.config)}" if name == "spool" else ""
            click.echo(f"cannot be read: {name}{why}")
        click.echo("balanced" if balanced else "NOT balanced")

    context.show(answer, as_json=as_json, human=human)
    if not balanced:
        sys.exit(NO)


async def _audited(context: Context, late_after: float) -> list[Check]:
    async with context.store() as store:
        return await audit(store, now=context.clock.now(), late_after=late_after)


async def _beside(context: Context) -> dict[str, Any]:
    """What still lies in spool and queues; None where it cannot be read."""
    spool = look_into(context.config, now=context.clock.now())
    beside: dict[str, Any] = {"spool": spool.events if spool else None}
    try:
        beside |= {one.name: one.ready for one in await depths(context.config.broker.url)}
    except CorreioError:
        beside["broker"] = None
    return beside
