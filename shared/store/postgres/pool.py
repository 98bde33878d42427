"""A pool of connections that says why it has none to give."""

import asyncio
from typing import Any, Self

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from shared.store.postgres.link import Connection

_LONGEST = 300


class Pool(AsyncConnectionPool[Connection]):
    """As the library's, but its `PoolTimeout` names the last fault of connecting, if that is why.

    The library tries again in the background and tells its log only, so that a wrong password, a
    certificate that does not fit and a server that is down all look the same to the caller.
    """

    def __init__(self, *, patience: float, **options: Any) -> None:
        """`patience`: seconds in which the server must answer anything, unless said otherwise."""
        self.fault = ""
        self._draining: asyncio.Task[None] | None = None
        told = self

        class Telling(Connection):
            @classmethod
            async def connect(cls, *where: Any, **how: Any) -> Self:
                try:
                    made = await super().connect(*where, **how)
                except (psycopg.Error, OSError) as error:
                    told.fault = _words(error)
                    raise
                told.fault = ""
                made.patience = patience
                return made

            def gave_up(self) -> None:
                told.drain_soon()

        super().__init__(connection_class=Telling, **options)

    def drain_soon(self) -> None:
        """Replace every connection: what has silenced one has silenced the others too."""
        if self._draining is None or self._draining.done():
            self._draining = asyncio.ensure_future(self.drain())

    async def getconn(self, timeout: float | None = None) -> Connection:  # noqa: ASYNC109 - the library's
        """See `AsyncConnectionPool.getconn`."""
        try:
            return await super().getconn(timeout)
        except PoolTimeout as error:
            raise PoolTimeout(self.fault or str(error)) from None


def _words(error: Exception) -> str:
    """What the driver said, on one line."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
