"""``correio status``, ``trace`` and ``state``: looking, never touching."""

import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import click
import orjson

from console.context import NO, Context, iso, json_option, pass_context, run
from console.spool import is_elsewhere, look_into, why_unseen
from shared.broker.depth import QueueDepth, depths
from shared.broker.statistics import unacknowledged
from shared.broker.topology import CALLBACKS, QUEUES
from shared.config import BrokerConfig
from shared.domain.aggregates import State, status_of
from shared.domain.consent import ConsentState, ConsentStatus
from shared.domain.keys import AggregateKey, AggregateKind
from shared.domain.link import LinkState
from shared.domain.product_request import ProductRequestState
from shared.domain.tax_ids import normalise
from shared.errors import CorreioError
from shared.store.lists import DeliveryRow
from shared.store.queries import (
    AttemptRow,
    EventRow,
    QuarantineRow,
    Queries,
    TransitionRow,
)

KINDS = {"link": AggregateKind.LINK, "consent": AggregateKind.CONSENT,
         "product-request": AggregateKind.PRODUCT_REQUEST}  # fmt: skip


NOTED_LATELY = 30_000
"""Milliseconds for which what a console wrote down counts: it writes every ten seconds."""

Ages = Callable[[Iterable[QueueDepth]], Awaitable[dict[str, float | None]]]


@click.command()
@json_option
@pass_context
def status(context: Context, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """Show queue depths, the spool, and counts of events, quarantine and deliveries."""
    answer = run(status_answer(context))

    def human() -> None:
        context.table(
            "Queues",
            ("queue", "ready", "unacknowledged", "consumers", "oldest age (s)"),
            (
                [one[c] for c in ("name", "ready", "unacknowledged", "consumers",
                                  "oldestAgeSeconds")]
                for one in answer["queues"]
            ),
        )  # fmt: skip
        if spool := answer["spool"]:
            context.table("Spool", ("events", "bytes", "oldest age (s)"), [list(spool.values())])
        for title in ("events", "quarantine", "deliveries"):
            context.table(title.title(), ("", "count"), (answer[title] or {}).items())
        for name in answer["unavailable"]:
            why = f": {why_unseen(context.config)}" if name == "spool" else ""
            click.echo(f"cannot be read: {name}{why}")

    context.show(answer, as_json=as_json, human=human)
    elsewhere = ("spool",) if is_elsewhere(context.config) else ()
    allowed = ("unacknowledged", "oldestAgeSeconds", *elsewhere)
    if any(not name.endswith(allowed) for name in answer["unavailable"]):
        sys.exit(NO)


async def status_answer(
    context: Context, *, counts: bool = True, ages: Ages | None = None
) -> dict[str, Any]:
    """What ``correio status`` shows.

    Args:
        context: of the invocation.
        counts: whether to give the members that cost a count, else None.
        ages: tells how old the oldest message of each queue is, callbacks apart; without it,
            what a running console wrote down lately is taken.
    """
    answer: dict[str, Any] = {
        "queues": [], "spool": None, "events": None, "quarantine": None, "deliveries": None,
        "unavailable": [],
    }  # fmt: skip
    oldest: dict[str, float | None] = {}
    try:
        async with context.store() as store:
            if counts:
                answer |= await Queries(store).counts()
            if ages is None:
                oldest = await _noted_ages(Queries(store), now=context.clock.now())
            due = await store.oldest_due()
            oldest[CALLBACKS] = 0.0 if due is None else max(0, context.clock.now() - due) / 1000
    except CorreioError:
        answer["unavailable"] += ["events", "quarantine", "deliveries"]
    answer["queues"] = await _queues(context.config.broker, oldest, ages, answer["unavailable"])
    spool = look_into(context.config, now=context.clock.now())
    if spool is None:
        answer["unavailable"].append("spool")
    else:
        answer["spool"] = {
            "events": spool.events,
            "bytes": spool.bytes,
            "oldestAgeSeconds": spool.oldest_age,
        }
    return answer


async def _queues(
    broker: BrokerConfig,
    oldest: dict[str, float | None],
    ages: Ages | None,
    unavailable: list[str],
) -> list[dict[str, Any]]:
    found: list[QueueDepth] = []
    held: dict[str, int] = {}
    try:
        found = await depths(broker.url, connect_timeout=broker.connect_timeout)
    except CorreioError:
        unavailable.append("queues")
    if found:
        with contextlib.suppress(CorreioError):
            held = await unacknowledged(broker)
    if found and ages is not None:
        with contextlib.suppress(CorreioError):  # the store tells how late callbacks are
            oldest = await ages(one for one in found if one.name != CALLBACKS) | oldest
    known = {one.name: one for one in found}
    rows = []
    for name in QUEUES:
        depth = known.get(name)
        empty = depth is not None and not depth.ready and name != CALLBACKS
        row: dict[str, Any] = {
            "name": name,
            "ready": depth.ready if depth else None,
            "unacknowledged": held.get(name),
            "consumers": depth.consumers if depth else None,
            "oldestAgeSeconds": 0.0 if empty else oldest.get(name),
        }
        rows.append(row)
        if depth:
            unavailable += [
                f"{name}.{member}"
                for member in ("unacknowledged", "oldestAgeSeconds")
                if row[member] is None
            ]
    return rows


async def _noted_ages(queries: Queries, *, now: int) -> dict[str, float | None]:
    """The ages that a running console wrote down last, grown since; empty if that is long ago."""
    points = await queries.samples(since=now - NOTED_LATELY)
    if not points:
        return {}
    last = orjson.loads(points[-1])
    passed = (now - last["at"]) / 1000
    return {name: round(age + passed, 3) if age else None for name, age in last["oldest"].items()}


@click.command()
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("partner_app_id")
@click.argument("id", metavar="ID")
@json_option
@pass_context
def state(context: Context, kind: str, partner_app_id: str, id: str, as_json: bool) -> None:  # noqa: A002, FBT001 - click passes them by the names that the usage shows
    """Show the state of one link, consent or product request; exit 1 if it is unknown."""
    key = AggregateKey(KINDS[kind], partner_app_id, id)
    answer = run(_state(context, key))
    if answer is None:
        context.show(None, as_json=as_json, human=lambda: click.echo("unknown", err=True))
        sys.exit(NO)

    def human() -> None:
        context.table(f"{kind} {id}", ("", ""), answer.items())

    context.show(answer, as_json=as_json, human=human)


async def _state(context: Context, key: AggregateKey) -> dict[str, Any] | None:
    async with context.queries() as queries:
        found = await queries.aggregate(key)
    if found is None:
        return None
    return {
        "aggregate": str(key.kind),
        "partnerAppId": key.partner_app_id,
        "id": key.id,
        "version": found.version,
        "status": status_of(found.state) or None,
        **describe(found.state, now=context.clock.now()),
        "updatedAt": iso(found.state.last.time) if found.state.last else None,
    }


def describe(state: State, *, now: int) -> dict[str, Any]:
    """The members of ``correio state`` that depend on the kind of aggregate."""
    match state:
        case ConsentState():
            return {
                "conflict": state.conflict,
                "usable": usable(state, now=now),
                "linkId": state.link_id or None,
                "institutionCode": state.institution_code or None,
                "externalTrackId": state.external_track_id or None,
                "permissionsApply": list(state.permissions_apply),
                "permissionsGranted": list(state.permissions_granted),
                "expireAt": state.expire_at,
            }
        case LinkState():
            return {"consents": list(state.consents)}
        case ProductRequestState():
            order, listed = state.order, state.listed
            return {
                "linkId": (order.link_id if order else "") or None,
                "institutionCode": (order.institution_code if order else "") or None,
                "consentIds": list(order.consent_ids) if order else [],
                "products": {
                    name: {
                        "status": one.status.value,
                        "successes": one.successes,
                        "failures": one.failures,
                        "failureReason": one.failure_reason,
                        **({"unlisted": True} if listed and name not in listed else {}),
                    }
                    for name, one in state.products.items()
                },
            }


def usable(state: ConsentState, *, now: int) -> bool:
    """Whether data may be requested: AUTHORISED, without conflict, before its expiry.

    An expiry that cannot be read is taken as past: it fails closed (domain.md).
    """
    if state.status is not ConsentStatus.AUTHORISED or state.conflict:
        return False
    if state.expire_at is None:
        return True
    try:
        end = datetime.fromisoformat(state.expire_at)
    except ValueError:
        return False
    return now < (end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp() * 1000


@click.command()
@click.argument("id", metavar="ID")
@json_option
@pass_context
def trace(context: Context, id: str, as_json: bool) -> None:  # noqa: A002, FBT001 - click passes them by the names that the usage shows
    """Show everything about an eventId, linkId, consentId, requestId or CPF; exit 1 if unknown."""
    answer = run(trace_answer(context, id))

    def human() -> None:
        context.table(
            "Events",
            ("event", "name", "time", "received", "source", "label", "repeated", "tax ids"),
            (
                (
                    one["eventId"],
                    one["eventName"],
                    one["eventTime"],
                    one["receivedAt"],
                    one["source"],
                    _label(one),
                    one["duplicates"],
                    one["taxIds"],
                )
                for one in answer["events"]
            ),
        )
        context.table(
            "Transitions",
            ("aggregate", "id", "version", "type", "from", "to", "event", "at"),
            (
                [one[c] for c in ("aggregate", "id", "version", "type", "from", "to", "eventId",
                                  "at")]
                for one in answer["transitions"]
            ),
        )  # fmt: skip
        context.table(
            "Deliveries",
            ("delivery", "endpoint", "type", "state", "attempts", "next attempt"),
            (
                (one["id"], one["endpoint"], one["type"], one["state"],
                 ", ".join(f"{a['outcome']}{' ' + str(a['status']) if a['status'] else ''}"
                           for a in one["attempts"]), one["nextAttemptAt"])
                for one in answer["deliveries"]
            ),
        )  # fmt: skip

    context.show(answer, as_json=as_json, human=human)
    if not answer["events"] and not answer["transitions"]:
        sys.exit(NO)


async def trace_answer(context: Context, name: str) -> dict[str, Any]:
    """What ``correio trace`` shows."""
    async with context.queries() as queries:
        events = await queries.events_with_id(name)
        quarantined = await queries.quarantined_as(name)
        keys = await queries.named(name)
        tax_id = normalise(name)
        if tax_id is not None:
            keys |= await queries.of_subject(tax_id)
        seqs = {one.seq for one in events}
        by_event = await queries.aggregates_of(sorted(seqs)) if seqs else {}
        events += [one for one in await queries.events_of(list(keys)) if one.seq not in seqs]
        transitions = await queries.transitions_of(keys)
        seen = {(number, row.version) for number, row in transitions}
        transitions += [
            one
            for one in await queries.transitions_of(by_event, seqs=sorted(seqs))
            if (one[0], one[1].version) not in seen
        ]
        wanted = {(row.aggregate, row.version) for _, row in transitions}
        deliveries = [
            one
            for one in await queries.deliveries_of(list({**keys, **by_event}))
            if (one.aggregate, one.version) in wanted
        ]
        attempts = await queries.attempts_of(deliveries)
    return {
        "events": [*map(_event, events), *map(_quarantined, quarantined)],
        "transitions": [_transition(row) for _, row in transitions],
        "deliveries": [delivery_answer(one, attempts.get(one.id, [])) for one in deliveries],
    }


def _event(one: EventRow) -> dict[str, Any]:
    return {
        "eventId": one.event_id,
        "eventName": one.name,
        "eventTime": iso(one.time),
        "receivedAt": iso(one.received_at),
        "source": one.source,
        "label": one.label,
        "duplicates": one.duplicates,
        "taxIds": one.tax_form or None,
    }


def _quarantined(one: QuarantineRow) -> dict[str, Any]:
    """A quarantine entry among the events; `quarantine` names it and says what became of it."""
    return {
        "eventId": one.event_id,
        "eventName": None,
        "eventTime": None,
        "receivedAt": iso(one.received_at),
        "source": one.source,
        "label": "quarantined",
        "duplicates": one.seen - 1,
        "taxIds": None,
        "quarantine": {"id": one.id, "reason": one.reason, "status": one.status},
    }


def _label(event: dict[str, Any]) -> str:
    """What became of an event, in a word or, for one in quarantine, with its reason."""
    held = event.get("quarantine")
    return f"{event['label']}: {held['reason']}, {held['status']}" if held else event["label"]


def _transition(one: TransitionRow) -> dict[str, Any]:
    return {
        "aggregate": one.aggregate.kind,
        "id": one.aggregate.id,
        "partnerAppId": one.aggregate.partner_app_id,
        "version": one.version,
        "type": one.type,
        "from": one.from_status or None,
        "to": one.to_status,
        "eventId": one.event_id,
        "at": iso(one.at),
    }


def delivery_answer(one: DeliveryRow, attempts: list[AttemptRow]) -> dict[str, Any]:
    """A delivery with its attempts as ``--json`` shows it."""
    waits = one.state in ("pending", "retrying")
    return {
        "id": one.id,
        "endpoint": one.endpoint,
        "type": one.type,
        "aggregate": one.aggregate.kind,
        "aggregateId": one.aggregate.id,
        "version": one.version,
        "state": one.state,
        "attempts": [
            {
                "number": a.number,
                "at": iso(a.at),
                "outcome": a.outcome,
                "status": a.status,
                "durationSeconds": a.duration_ms / 1000,
                "error": a.error or None,
            }
            for a in attempts
        ],
        "nextAttemptAt": iso(one.due_at) if waits else None,
    }
