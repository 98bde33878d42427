"""``correio conflicts``: consents whose events contradict each other."""

import sys
from typing import Any

import click
from msgspec.structs import replace

from console.context import NO, Context, json_option, pass_context, run
from shared.domain.consent import ConsentState
from shared.domain.keys import AggregateKey, AggregateKind
from shared.fanout import Announcer, Subscriptions
from shared.store.queries import Queries
from shared.store.rows import Changes


@click.group()
def conflicts() -> None:
    """List or clear conflicts of consents."""


@conflicts.command("list")
@json_option
@pass_context
def list_(context: Context, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """List consents with a conflict that nobody has cleared."""

    async def find() -> list[dict[str, Any]]:
        async with context.queries() as queries:
            found = await queries.in_conflict()
        return [
            {"partnerAppId": key.partner_app_id, "id": key.id, "status": status}
            for key, status in found
        ]

    found = run(find())
    context.show(
        {"conflicts": found},
        as_json=as_json,
        human=lambda: context.table(
            "Conflicts", ("partner application", "consent", "status"),
            (list(one.values()) for one in found),
        ),
    )  # fmt: skip


@conflicts.command()
@click.argument("partner_app_id")
@click.argument("consent_id")
@json_option
@pass_context
def clear(context: Context, partner_app_id: str, consent_id: str, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """Clear a consent's conflict after somebody has looked into it; endpoints are told."""
    key = AggregateKey(AggregateKind.CONSENT, partner_app_id, consent_id)
    cleared = run(_clear(context, key))
    context.show(
        {"cleared": cleared},
        as_json=as_json,
        human=lambda: click.echo("cleared" if cleared else "there is no conflict to clear"),
    )
    if not cleared:
        sys.exit(NO)


async def _clear(context: Context, key: AggregateKey) -> bool:
    async with context.store() as store:
        if await Queries(store).aggregate(key) is None:
            return False
        now = context.clock.now()
        async with store.transaction() as transaction:
            current = (await transaction.lock_aggregates([key]))[key]
            state = current.state
            if not isinstance(state, ConsentState) or not state.conflict:
                return False
            after = replace(state, cleared=state.conflicts)
            announcer = Announcer(Subscriptions(context.config.endpoint), now=now)
            changes = Changes()
            changes.aggregates.append(announcer.announce(current, after, changes))
            await transaction.write(changes)
        await Queries(store).note(
            actor=context.actor,
            action="conflict.clear",
            target=f"{key.partner_app_id}/{key.id}",
            detail="",
            now=now,
        )
        return True
