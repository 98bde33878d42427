"""The fault catalogue: every fault that the suite does to Correio, as data.

`README.md` beside this file is made of it by ``python -m tests.chaos.table``.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from tests.chaos.stage import Stage

STORES = ("sqlite", "postgres")

Fault = Callable[["Stage"], AbstractAsyncContextManager[None]]
"""Does the fault on entering, once it shows; heals it on leaving."""

Act = Callable[["Stage"], AsyncIterator[None]]


class Layer(StrEnum):
    """Where a fault happens."""

    REAL = "real"
    SIMULATED = "simulated"


class Row(Struct, frozen=True):
    """One fault.

    Attributes:
        name: unique; the test's name.
        layer: to real processes, or to the real code on simulated ports.
        fault: what happens.
        how: how it is injected.
        holds: what must hold besides what the oracle always demands.
        stores: the stores that it concerns.
        seconds: how long it lasts after it has shown.
        act: does it to a stage; None for a simulated one.
    """

    name: str
    layer: Layer
    fault: str
    how: str
    holds: str
    stores: tuple[str, ...] = STORES
    seconds: float = 1.0
    act: Fault | None = None


class Chapter:
    """Faults of one kind, in the order in which they are written down."""

    def __init__(self, *, stores: tuple[str, ...] = STORES) -> None:
        self.rows: list[Row] = []
        self._stores = stores

    def row(
        self, name: str, *, fault: str, how: str, holds: str, seconds: float = 1.0
    ) -> Callable[[Act], Fault]:
        """Take the decorated function into the catalogue."""

        def take(act: Act) -> Fault:
            done = contextlib.asynccontextmanager(act)
            self.rows.append(
                Row(
                    name,
                    Layer.REAL,
                    fault,
                    how,
                    holds,
                    stores=self._stores,
                    seconds=seconds,
                    act=done,
                )
            )
            return done

        return take
