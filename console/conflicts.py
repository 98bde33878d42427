"""``correio conflicts``: consents whose events contradict each other."""

import sys
from typing import Any

import click
import msgspec
from msgspec.structs import replace

from console.context import NO, Context, json_option, pass_context, run
from shared.domain import notices
from shared.domain.aggregates import decode_state, status_of
from shared.domain.consent import ConsentState
from shared.domain.keys import AggregateKey, AggregateKind
from shared.fanout import Subscriptions
from shared.ids import new_id
from shared.store.queries import Queries
from shared.store.rows import Aggregate, Changes, DeliveryState, NewDelivery, NewTransition


@click.group()
def conflicts() -> None:
    """List or clear conflicts of consents."""


@conflicts.command("list")
@json_option
@pass_context
def list_(context: Context, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """List consents with a conflict that nobody has cleared."""

    async def find() -> list[dict[str, Any]]:
        async with context.store() as store:
            rows = await store.fetch(
                "SELECT partner_app_id, key, state FROM aggregates WHERE conflict <> 0 ORDER BY id"
            )
        return [
            {"partnerAppId": app, "id": key, "status": status_of(decode_state(bytes(state)))}
            for app, key, state in rows
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
            await transaction.write(_changes(context, current, after, now=now))
        await Queries(store).note(
            actor=context.actor,
            action="conflict.clear",
            target=f"{key.partner_app_id}/{key.id}",
            detail="",
            now=now,
        )
        return True


def _changes(context: Context, current: Aggregate, after: ConsentState, *, now: int) -> Changes:
    changes = Changes()
    version = current.version
    subscriptions = Subscriptions(context.config.endpoint)
    status = status_of(after)
    for notice in notices.notices(current.state, after):
        version += 1
        data = notices.data(current.key, version=version, previous=status, state=after)
        changes.transitions.append(
            NewTransition(
                aggregate_id=current.id,
                version=version,
                type=notice.type,
                from_status=status,
                to_status=status,
                event_seq=None,
                at=now,
                data=msgspec.json.encode(data),
            )
        )
        changes.deliveries += [
            NewDelivery(
                id=new_id(),
                aggregate_id=current.id,
                version=version,
                endpoint=endpoint,
                type=notice.type,
                state=DeliveryState.PENDING,
                due_at=now,
            )
            for endpoint in subscriptions.of(notice.type)
        ]
    changes.aggregates.append(replace(current, version=version, state=after))
    return changes
