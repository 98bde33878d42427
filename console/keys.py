"""``correio keys``: which keys wrap the data keys, and wrapping them anew by the first one."""

import sys
from pathlib import Path
from typing import Any

import click

from console.context import NO, Context, json_option, pass_context, run
from shared.rewrap import ORPHANED_ENTRIES, ORPHANS, count_by_key, rewrap
from shared.sealing import UNWRAPPED, KeyRing, new_key
from shared.store.backup import restore_keys, save_keys


@click.group()
def keys() -> None:
    """List the keys that seal the store, or change to a new one."""


@keys.command("new")
@click.argument("id", metavar="ID")
@json_option
@pass_context
def new(context: Context, id: str, as_json: bool) -> None:  # noqa: A002, FBT001 - click passes them by the names that the usage shows
    """Print a new random key under ID, for sealing.keys; nothing is stored."""
    made = f"{id}:{new_key()}"
    KeyRing.read(made)
    context.show({"key": made}, as_json=as_json, human=lambda: click.echo(made))


@keys.command("list")
@json_option
@pass_context
def list_(context: Context, as_json: bool) -> None:  # noqa: FBT001 - as above
    """Show how many data keys each configured key wraps; exit 1 if one in use is not configured."""
    ring = KeyRing.read(context.config.sealing.keys.reveal())

    async def count() -> dict[str, int]:
        async with context.store() as store:
            return await count_by_key(store)

    counts = run(count())
    found: list[dict[str, Any]] = [
        {
            "id": one,
            "first": one == ring.first,
            "configured": one in ring.ids or one == UNWRAPPED,
            "wraps": counts.get(one, 0),
        }
        for one in dict.fromkeys([*ring.ids, *sorted(counts)])
    ]

    def human() -> None:
        rows = (
            (one["id"] or "(unwrapped)", "yes" if one["first"] else "",
             "yes" if one["configured"] else "MISSING", one["wraps"])
            for one in found
        )  # fmt: skip
        context.table("Sealing keys", ("id", "wraps new ones", "configured", "data keys"), rows)

    context.show({"keys": found}, as_json=as_json, human=human)
    if not all(one["configured"] for one in found):
        sys.exit(NO)


@keys.command("rewrap")
@json_option
@pass_context
def rewrap_(context: Context, as_json: bool) -> None:  # noqa: FBT001 - as above
    """Wrap every data key by the first configured key, while everything runs."""

    async def work() -> int:
        async with context.store() as store:
            return await rewrap(store)

    count = run(work())
    context.show(
        {"rewrapped": count}, as_json=as_json, human=lambda: click.echo(f"rewrapped: {count}")
    )


@keys.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@pass_context
def save(context: Context, file: Path, as_json: bool) -> None:  # noqa: FBT001 - as above
    """Copy the data keys of a SQLite store into FILE; with them an older backup can be read."""
    run(save_keys(context.config.store.url, file))
    context.show(
        {"file": str(file)}, as_json=as_json, human=lambda: click.echo(f"{file}: keep it safe")
    )


@keys.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@pass_context
def restore(context: Context, file: Path, as_json: bool) -> None:  # noqa: FBT001 - as above
    """Give a restored SQLite store the data keys of FILE; those it has stay."""
    count = run(restore_keys(context.config.store.url, file))
    context.show(
        {"restored": count}, as_json=as_json, human=lambda: click.echo(f"keys restored: {count}")
    )


@keys.command()
@json_option
@pass_context
def tidy(context: Context, as_json: bool) -> None:  # noqa: FBT001 - as above
    """Remove data keys of what is not stored: after keys were restored that are newer than the data."""  # noqa: E501 - click shows the first line whole

    async def work() -> int:
        async with context.store() as store:
            return sum(await store.change([(ORPHANS, ()), (ORPHANED_ENTRIES, ())]))

    count = run(work())
    context.show(
        {"removed": count}, as_json=as_json, human=lambda: click.echo(f"keys removed: {count}")
    )
