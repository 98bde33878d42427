"""A connection that is kept up.

aio-pika's robust connection hides a loss from its users: publishes wait and consumers fall
silent. Here a loss is an event: the session ends, its users are told, and a new one is built
from nothing. Publishing and consuming never share a connection, since a broker under an alarm
stops reading from publishers.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from shared.broker.dial import dial
from shared.broker.faults import translate, translated
from shared.config import BrokerConfig, Secret
from shared.errors import BrokerUnavailableError, CorreioError
from shared.logs import get_logger

log = get_logger(__name__)

CLOSE_TIMEOUT = 1.0
"""Seconds that the broker has to answer a farewell."""

SETUP_TIMEOUT = 10.0
"""Seconds in which a session must stand: a broker that is still coming up may not answer at all."""

STEADY = 1.0
"""Seconds that a session must have stood for its loss not to count as a failure."""

aiormq.Connection.HEARTBEAT_GRACE_MULTIPLIER = 1.5  # type: ignore[assignment]  # declared int, only ever multiplied
"""Heartbeats, and half a second more for each, after whose absence the peer counts as lost.

The broker sends two in the time of one. aiormq itself would wait for three times three."""

Session = Callable[[AbstractConnection], Awaitable[None]]


async def keep_connected(
    config: BrokerConfig, *, name: str, session: Session, fed: bool = False
) -> None:
    """Connect and run `session` on the connection, again and again until cancelled.

    `session` returns or raises when the connection is of no more use to it. A session that
    stood resets the backoff, which otherwise doubles up to ``broker.reconnect_max``. `fed`: read
    through a `shared.broker.feed.Feed`.
    """

    def lost(retry: RetryCallState) -> None:
        _heed_cancellation()
        error = retry.outcome.exception() if retry.outcome else None
        said = str(error) if error else None
        log.warning("broker.unavailable", worker=name, error=said, attempt=retry.attempt_number)

    while True:
        backoff = wait_random_exponential(multiplier=0.1, max=config.reconnect_max)
        async for attempt in AsyncRetrying(
            wait=backoff,
            retry=retry_if_exception_type(CorreioError),
            before_sleep=lost,
        ):
            with attempt:
                async with translated():
                    await _connect_and_serve(config, name=name, session=session, fed=fed)
        _heed_cancellation()


def _heed_cancellation() -> None:
    """Raise the cancellation that was swallowed on the way, if there was one.

    ``asyncio.wait_for`` of Python 3.11, which aiormq connects with, loses a cancellation that
    arrives together with the outcome.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _connect_and_serve(
    config: BrokerConfig, *, name: str, session: Session, fed: bool
) -> None:
    """One connection, from its opening to its loss. A loss after a good start is no failure.

    Raises:
        BrokerUnavailableError: the session was over so soon that the next needs a pause first.
    """
    async with asyncio.timeout(config.connect_timeout):
        connection = await dial(
            config.url,
            within=config.connect_timeout,
            heartbeat=config.heartbeat,
            name=name,
            fed=fed,
        )
    clock = asyncio.get_running_loop().time
    began, said = clock(), None
    gone = lost(connection)
    try:
        _heed_cancellation()
        async with translated():
            serving = asyncio.ensure_future(session(connection))
            await first_of(asyncio.shield(gone), serving)
            if not serving.cancelled():
                serving.result()
    except CorreioError as error:
        if clock() - began < STEADY:
            raise
        said = str(error)
    finally:
        await close(connection)
    if clock() - began < STEADY:
        raise _end(gone)
    log.info("broker.session_ended", worker=name, error=said)


def _end(gone: asyncio.Future[None]) -> CorreioError:
    """Why a connection that was lost at once has gone."""
    error = gone.exception() if gone.done() and not gone.cancelled() else None
    return translate(error) if error else BrokerUnavailableError("the session ended at once")


@contextlib.asynccontextmanager
async def connected(url: Secret | str, *, within: float) -> AsyncIterator[AbstractConnection]:
    """A connection for the length of the block.

    A cancellation that was swallowed within it, by connecting or by closing a channel, is raised
    at its end: else the task of whoever looks again and again would never end.

    Args:
        url: ``broker.url``.
        within: seconds to wait for the broker.
    """
    connection = await dial(url, within=within)
    try:
        _heed_cancellation()
        yield connection
    finally:
        await close(connection)
    _heed_cancellation()


async def close(closable: AbstractConnection | AbstractChannel) -> None:
    """Close politely, but never wait for a peer that does not answer.

    It runs as a task of its own: aiormq swallows a cancellation that arrives while it closes,
    and whoever cancelled the caller would wait for ever. A caller that is cancelled waits for
    the farewell all the same, so that nothing of the connection goes on after it.
    """
    closing = asyncio.ensure_future(closable.close())
    closing.add_done_callback(_look_at)
    try:
        await asyncio.wait([closing], timeout=CLOSE_TIMEOUT)
    except asyncio.CancelledError:
        await asyncio.wait([closing], timeout=CLOSE_TIMEOUT)
        raise
    finally:
        closing.cancel()


def _look_at(closed: asyncio.Future[None]) -> None:
    """Take note of how it ended, which does not matter: the broker sees us go either way."""
    if not closed.cancelled():
        closed.exception()


def lost(connection: AbstractConnection) -> asyncio.Future[None]:
    """A future that is done once the connection has closed, for whatever reason."""
    transport = connection.transport
    if transport is None:
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gone.set_result(None)
        return gone
    closing: asyncio.Future[None] = transport.connection.closing
    return closing


async def first_of(*awaitables: Awaitable[object]) -> None:
    """Return when any of them is done, however it ended; cancel the others.

    A cancellation that was swallowed before is heeded here, where the wait may be without end.
    """
    waiting = [asyncio.ensure_future(one) for one in awaitables]
    try:
        _heed_cancellation()
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
