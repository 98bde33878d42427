"""``correio erase`` and ``erasures``: erasing on demand, and the receipts of all erasures."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from console.context import NO, Context, iso, json_option, pass_context, run
from console.look import KINDS
from shared.domain.keys import AggregateKey, AggregateKind
from shared.domain.tax_ids import normalise
from shared.eraser import Eraser
from shared.errors import ConfigError
from shared.store.port import Store
from shared.store.queries import ErasureRow, Queries
from shared.store.rows import Why

really_option = click.option("--yes", is_flag=True, help="Do it; without this it is shown only.")


@click.group()
def erase() -> None:
    """Erase what is personal of a consent, a link or a person, for good."""


@erase.command()
@click.argument("partner_app_id")
@click.argument("id", metavar="ID")
@really_option
@json_option
@pass_context
def consent(context: Context, partner_app_id: str, id: str, yes: bool, as_json: bool) -> None:  # noqa: A002, FBT001 - click passes them by the names that the usage shows
    """Erase a consent, and what goes with it; its endpoints get consent.deleted."""
    key = AggregateKey(AggregateKind.CONSENT, partner_app_id, id)
    _report(context, run(_erase_keys(context, [key], really=yes)), really=yes, as_json=as_json)


@erase.command()
@click.argument("partner_app_id")
@click.argument("id", metavar="ID")
@really_option
@json_option
@pass_context
def link(context: Context, partner_app_id: str, id: str, yes: bool, as_json: bool) -> None:  # noqa: A002, FBT001 - as above
    """Erase a link with all its consents and product requests."""
    key = AggregateKey(AggregateKind.LINK, partner_app_id, id)
    _report(context, run(_erase_link(context, key, really=yes)), really=yes, as_json=as_json)


@erase.command()
@click.argument("tax_id")
@really_option
@json_option
@pass_context
def subject(context: Context, tax_id: str, yes: bool, as_json: bool) -> None:  # noqa: FBT001 - as above
    """Erase everything that names this CPF or CNPJ."""
    _report(context, run(_erase_subject(context, tax_id, really=yes)), really=yes, as_json=as_json)


@click.command()
@click.argument("name", default="", metavar="[ID]")
@click.option("--limit", default=100, type=click.IntRange(min=1))
@json_option
@pass_context
def erasures(context: Context, name: str, limit: int, as_json: bool) -> None:  # noqa: FBT001 - as above
    """List erasures and their receipts, newest first; ID is an erasure's or an aggregate's."""

    async def find() -> list[ErasureRow]:
        async with context.queries() as queries:
            return await queries.erasures(name=name, limit=limit)

    found = [receipt_answer(one) for one in run(find())]

    def human() -> None:
        columns = ("erasure", "aggregate", "id", "reason", "asked", "state")
        context.table(
            "Erasures",
            columns,
            (
                [one[c] for c in ("erasure", "aggregate", "id", "reason", "askedAt", "state")]
                for one in found
            ),
        )
        if name:
            for one in found:
                _print_receipt(context, one)

    context.show({"erasures": found}, as_json=as_json, human=human)
    if name and not found:
        sys.exit(NO)


def receipt_answer(one: ErasureRow) -> dict[str, Any]:
    """An erasure with its receipt as ``--json`` shows it."""
    receipt = one.receipt
    return {
        "erasure": one.id,
        "aggregate": one.key.kind,
        "partnerAppId": one.key.partner_app_id,
        "id": one.key.id,
        "reason": one.reason,
        "state": one.state,
        "askedAt": iso(one.asked_at),
        "erasedAt": iso(receipt.get("at")),
        "confirmedAt": iso(receipt.get("confirmedAt")),
        "erased": receipt.get("erased", {}),
        "alsoErased": receipt.get("alsoErased", []),
        "traces": receipt.get("traces", {}),
    }


def _print_receipt(context: Context, one: dict[str, Any]) -> None:
    title = f"Receipt {one['erasure']}: {one['aggregate']} {one['id']}"
    rows = [(f"erased: {name}", count) for name, count in one["erased"].items()]
    rows += [("also erased", f"{also['aggregate']} {also['id']}") for also in one["alsoErased"]]
    rows += [(f"traces: {name}", text) for name, text in one["traces"].items()]
    context.table(title, ("", ""), rows)


async def _erase_keys(
    context: Context, keys: Sequence[AggregateKey], *, really: bool
) -> dict[str, Any]:
    async with context.store() as store:
        queries = Queries(store)
        return await _erase(context, store, await queries.not_erased(keys), really=really)


async def _erase_link(context: Context, key: AggregateKey, *, really: bool) -> dict[str, Any]:
    async with context.store() as store:
        queries = Queries(store)
        if await queries.aggregate(key) is None:
            return {"erased": [], "dryRun": not really, "receipts": []}
        along = [
            one
            for one in (await queries.named(key.id)).values()
            if one.partner_app_id == key.partner_app_id
        ]
        found = await queries.not_erased(sorted({key, *along}))
        return await _erase(context, store, found, really=really)


async def _erase_subject(context: Context, tax_id: str, *, really: bool) -> dict[str, Any]:
    bare = normalise(tax_id)
    if bare is None:
        raise ConfigError("TAX_ID has neither the form of a CPF nor that of a CNPJ")
    async with context.store() as store:
        queries = Queries(store)
        eraser = Eraser(store, context.config, clock=context.clock)
        entries = await eraser.empty_quarantine_of(bare, really=really)
        if really and entries:
            await queries.note(
                actor=context.actor,
                action="erase.subject",
                target="quarantine",
                detail=f"{entries} entries",
                now=context.clock.now(),
            )
        found = await queries.not_erased(list((await queries.of_subject(bare)).values()))
        return await _erase(context, store, found, really=really) | {"quarantine": entries}


async def _erase(
    context: Context, store: Store, keys: Sequence[AggregateKey], *, really: bool
) -> dict[str, Any]:
    """Erase these aggregates to the end, if `really`; a consent before what goes with it."""
    answer: dict[str, Any] = {
        "erased": [{"aggregate": one.kind, "id": one.id} for one in keys],
        "dryRun": not really,
        "receipts": [],
    }
    if not really or not keys:
        return answer
    queries = Queries(store)
    eraser = Eraser(store, context.config, clock=context.clock)
    for key in sorted(keys):
        if await eraser.erase(key, why=Why.OPERATOR):
            await queries.note(
                actor=context.actor,
                action=f"erase.{key.kind}",
                target=f"{key.partner_app_id}/{key.id}",
                detail="",
                now=context.clock.now(),
            )
    await eraser.work()
    for key in keys:
        rows = await queries.erasures(name=key.id)
        answer["receipts"] += [receipt_answer(one) for one in rows if one.key == key]
    return answer


def _report(context: Context, answer: dict[str, Any], *, really: bool, as_json: bool) -> None:
    entries = answer.get("quarantine", 0)
    found = answer["erased"] or entries

    def human() -> None:
        for one in answer["erased"]:
            kind = next(name for name, kind in KINDS.items() if kind == one["aggregate"])
            verb = "erased" if really else "would be erased"
            click.echo(f"{verb}: {kind} {one['id']}")
        if entries:
            verb = "emptied" if really else "would be emptied"
            click.echo(f"{verb}: {entries} in quarantine")
        if not found:
            click.echo("nothing to erase")
        elif not really:
            click.echo("add --yes to do it; it cannot be undone")
        for receipt in answer["receipts"]:
            _print_receipt(context, receipt)

    context.show(answer, as_json=as_json, human=human)
    if not found:
        sys.exit(NO)
