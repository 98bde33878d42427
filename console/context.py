"""What every command shares: configuration, store, time, and how answers are printed."""

import asyncio
import contextlib
import getpass
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

import click
import orjson
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from shared.clock import Clock, SystemClock
from shared.config import Config, load_config
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.queries import Queries

T = TypeVar("T")

UNBOUNDED = 10_000
"""Columns of a screen that is none."""

NO = 1
USAGE = 2


class Context:
    """One invocation of ``correio``."""

    def __init__(self) -> None:
        self.clock: Clock = SystemClock()
        self.screen = Console(highlight=False)
        if not self.screen.is_terminal:
            self.screen.width = UNBOUNDED  # nothing is printed wider than its screen

    @cached_property
    def config(self) -> Config:
        """The configuration; raises `ConfigError` if it cannot be used."""
        return load_config()

    @property
    def actor(self) -> str:
        """Who acts, for the record."""
        try:
            return f"{getpass.getuser()}@cli"
        except (KeyError, OSError):
            return f"uid-{os.getuid()}@cli"

    @contextlib.asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        """The store, opened and closed again."""
        store = open_store(self.config.store, self.config.sealing)
        try:
            await store.start()
            yield store
        finally:
            await store.close()

    @contextlib.asynccontextmanager
    async def queries(self) -> AsyncIterator[Queries]:
        """The store's queries."""
        async with self.store() as store:
            yield Queries(store)

    def progress(self, items: Sequence[T], what: str) -> Iterable[T]:
        """The items one by one, with a bar on a terminal that shows how many are done."""
        if not self.screen.is_terminal:
            return items
        return track(items, description=what, console=self.screen, transient=True)

    def show(self, answer: Any, *, as_json: bool, human: Callable[[], None]) -> None:
        """Print one JSON document, or what `human` prints."""
        if as_json:
            click.echo(orjson.dumps(answer, default=str).decode())
        else:
            human()

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table. Nothing in it is cut short: ids are there to be copied.

        Into a pipe or file each row goes as one line, however long.
        """
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*("" if cell is None else str(cell) for cell in row))
        if not table.row_count:
            self.screen.print(f"[bold]{title}[/bold]: none")
        else:
            self.screen.print(table)


pass_context = click.make_pass_decorator(Context, ensure=True)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part."""
    return asyncio.run(work)


def iso(milliseconds: int | None) -> str | None:
    """A time of ours as ISO 8601 in UTC with milliseconds."""
    if milliseconds is None:
        return None
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Moment(click.ParamType[int]):
    """An ISO 8601 time on the command line, or an age such as ``90s``, ``15m``, ``2h``, ``7d``."""

    name = "time"
    _units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}  # noqa: RUF012 - never written to

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Unix milliseconds."""
        if isinstance(value, int):
            return value
        text = str(value)
        if text[:-1].isdigit() and text[-1] in self._units:
            return SystemClock().now() - int(text[:-1]) * self._units[text[-1]] * 1000
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is neither an ISO 8601 time nor an age like 15m", param, ctx)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
