"""A batch is durable before it is answered: confirmed by the broker, or fsynced in the spool."""

import asyncio
from typing import Final, Protocol

from receiver.batch import Batch
from receiver.metrics import Metrics, Route
from receiver.outlet import Outlet, messages_of
from receiver.problems import Reason, Refusal
from shared.errors import SpoolFullError

PUBLISH_SHARE: Final = 0.9
"""The broker's share of the time for an answer; the rest is for the spool."""
SPOOL_TIMEOUT: Final = 3.0
"""Seconds that a stalled disk may cost before the sender is told to come back."""


class Appendable(Protocol):
    """What the intake needs of the spool."""

    async def append(self, batch: Batch) -> None:
        """Return once the batch would survive a power cut.

        Raises:
            SpoolFullError: it cannot be held.
        """
        ...


class Intake:
    """Finds a durable place for each batch."""

    def __init__(self, *, outlet: Outlet, spool: Appendable, metrics: Metrics) -> None:
        self._outlet = outlet
        self._spool = spool
        self._metrics = metrics

    async def accept(self, batch: Batch) -> Route | Refusal:
        """Return where the batch rests now, or a refusal when no place can take it."""
        if self._outlet.allows() and await self._outlet.send(messages_of(batch)):
            return Route.BROKER
        try:
            async with asyncio.timeout(SPOOL_TIMEOUT):
                await self._spool.append(batch)
        except (SpoolFullError, TimeoutError):
            self._metrics.spool_full.inc()
            return Refusal(Reason.NOT_DURABLE, "neither broker nor spool can take the batch now")
        return Route.SPOOL
