"""A connection that gives up on a server that says nothing.

A server that freezes, or a proxy before it that has lost it, leaves a connection standing on which
a question is never answered: the kernel there takes every byte, so that no time-out of TCP runs.
The driver's own way out, to cancel the statement, waits for the same answer.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.rows import TupleRow

PATIENCE = 3.0
"""Seconds beyond the time for locks in which any statement of the workers must be answered."""

LONG = 300.0
"""Seconds for what may take long: an operator's questions, audits, retention."""


class Connection(psycopg.AsyncConnection[TupleRow]):
    """Hangs up when an answer takes longer than `patience` seconds; None waits for ever."""

    patience: float | None = None

    async def wait(self, *what: Any, **how: Any) -> Any:
        """See `psycopg.AsyncConnection.wait`: every exchange with the server goes through it."""
        timer = None
        if self.patience is not None:
            timer = asyncio.get_running_loop().call_later(self.patience, self._hang_up)
        try:
            return await super().wait(*what, **how)
        except psycopg.InternalError as error:
            if error.sqlstate is None:  # the driver's own: an answer that fits no question
                await self.close()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    @contextlib.contextmanager
    def patient(self, seconds: float) -> Iterator[None]:
        """Wait that long for each answer within the block."""
        before, self.patience = self.patience, seconds
        try:
            yield
        finally:
            self.patience = before

    def _hang_up(self) -> None:
        """Whoever waits sees the connection end, as if the server had ended it."""
        with contextlib.suppress(OSError, psycopg.Error):
            twin = socket.socket(fileno=os.dup(self.fileno()))
            with twin:
                twin.shutdown(socket.SHUT_RDWR)
        self.gave_up()

    def gave_up(self) -> None:
        """It has hung up; the pool takes note."""
