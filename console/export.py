"""``correio export subject``: what is held about somebody who asks for access to it."""

import os
import sys
from pathlib import Path
from typing import Any

import click
import orjson

from console.context import NO, Context, iso, json_option, pass_context, run
from console.look import delivery_answer
from shared.domain.aggregates import status_of
from shared.privacy import mask_tax_ids
from shared.store.queries import Queries
from shared.store.subject import Held, HeldAggregate, HeldEntry, HeldEvent, Subject, plain

ELSEWHERE = (
    "the receiver's spool and the broker's queues, whose events will be in the store in moments",
    "logs, metrics and backups, by deploy/privacy.md",
)


@click.group()
def export() -> None:
    """Hand out what is held."""


@export.command()
@click.argument("tax_id", metavar="TAXID")
@click.option("--to", "file", type=click.Path(path_type=Path), help="Write the JSON into FILE.")
@json_option
@pass_context
def subject(context: Context, tax_id: str, file: Path | None, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """Everything held about a CPF or CNPJ, unmasked; this is recorded. Exit 1 if nothing is.

    TAXID may be -, to read it from standard input, where no list of processes shows it.
    """
    given = sys.stdin.readline().strip() if tax_id == "-" else tax_id
    answer = run(export_answer(context, given))
    if file is not None:
        _write(file, answer)

    def human() -> None:
        counts = ((name, len(answer[name])) for name in ("aggregates", "events", "quarantine"))
        context.table(f"Held about {answer['subject']}", ("what", "count"), counts)
        click.echo(f"written to {file}" if file else "--json or --to FILE gives all of it")

    context.show(answer, as_json=as_json, human=human)
    if not any(answer[name] for name in ("aggregates", "events", "quarantine")):
        sys.exit(NO)


async def export_answer(context: Context, tax_id: str) -> dict[str, Any]:
    """What ``correio export subject`` shows; that it was looked at is recorded."""
    async with context.store() as store:
        try:
            person = Subject(store, tax_id)
        except ValueError as error:
            raise click.UsageError(f"TAXID is {error}") from None
        held = await person.held()
        now = context.clock.now()
        await Queries(store).note(
            actor=context.actor,
            action="export.subject",
            target=person.token,
            detail=f"{len(held.aggregates)} aggregates, {len(held.events)} events, "
            f"{len(held.quarantine)} quarantine entries",
            now=now,
        )
    return {"subject": mask_tax_ids(tax_id), "exportedAt": iso(now), **_held(held)}


def _held(held: Held) -> dict[str, Any]:
    return {
        "aggregates": [_aggregate(one) for one in held.aggregates],
        "events": [_event(one) for one in held.events],
        "quarantine": [_entry(one) for one in held.quarantine],
        "notSearched": list(ELSEWHERE),
    }


def _aggregate(one: HeldAggregate) -> dict[str, Any]:
    key = one.aggregate.key
    return {
        "aggregate": str(key.kind),
        "partnerAppId": key.partner_app_id,
        "id": key.id,
        "status": status_of(one.aggregate.state) or None,
        "state": plain(one.aggregate.state),
        "facts": one.facts,
        "told": [
            {"version": told.version, "type": told.type, "at": iso(told.at), "data": told.data}
            for told in one.told
        ],
        "deliveries": [
            delivery_answer(row, attempts)
            | {"answers": [a.answer.decode("utf-8", "replace") for a in attempts if a.answer]}
            for row, attempts in one.deliveries
        ],
    }


def _event(one: HeldEvent) -> dict[str, Any]:
    return {
        "eventId": one.event_id,
        "eventName": one.name,
        "eventTime": iso(one.time),
        "receivedAt": iso(one.received_at),
        "source": one.source,
        "label": one.label,
        "taxIds": one.tax_form or None,
        "body": _parsed(one.body) if one.body else None,
    }


def _entry(one: HeldEntry) -> dict[str, Any]:
    return {
        "id": one.id,
        "reason": one.reason,
        "source": one.source,
        "receivedAt": iso(one.received_at),
        "status": one.status,
        "body": _parsed(one.body),
    }


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def _write(file: Path, answer: dict[str, Any]) -> None:
    """Only its owner may read the file; it never replaces another."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(orjson.dumps(answer, option=orjson.OPT_INDENT_2))
