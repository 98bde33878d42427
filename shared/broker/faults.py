"""What aio-pika, aiormq and the socket raise, in Correio's own words."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiormq.exceptions as amqp

from shared.errors import (
    BrokerUnavailableError,
    CorreioError,
    RejectedError,
    TopologyError,
    UnroutableError,
)

LOST = (amqp.AMQPError, ConnectionError, OSError, TimeoutError, RuntimeError)
"""What a lost or refused connection raises; RuntimeError comes from a channel that is closed."""


def translate(error: BaseException) -> CorreioError:
    """The error of ours that says what to do about `error`."""
    match error:
        case CorreioError():
            return error
        case amqp.PublishError():
            return UnroutableError("the broker returned a message: no queue takes it")
        case amqp.DeliveryError():
            return RejectedError("the broker refused a message")
        case amqp.ChannelPreconditionFailed() | amqp.ChannelAccessRefused():
            return TopologyError(_words(error))
        case amqp.ChannelNotFoundEntity():
            return TopologyError(f"{_words(error)}; run `correio migrate`")
        case _:
            return BrokerUnavailableError(f"{type(error).__name__}: {_words(error)}")


def _words(error: BaseException) -> str:
    words = str(error).splitlines()[0][:200] if str(error) else "no details"
    if isinstance(error, amqp.ConnectionInternalError):
        words += "; see deploy/runbooks.md, Queue broken"
    return words


def cancelled_ourselves() -> bool:
    """Whether a CancelledError is meant for the running task, and is not a closing channel's."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@contextlib.asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Raise what `translate` makes of a fault inside the block.

    A connection that is found dead rejects whatever waits for it with a CancelledError. Passed
    on, that would end the task as quietly as if we had cancelled it.
    """
    try:
        yield
    except LOST as error:
        raise translate(error) from error
    except asyncio.CancelledError as error:
        if cancelled_ourselves():
            raise
        raise BrokerUnavailableError("the connection was found dead") from error
    except Exception as error:
        if type(error) is Exception:  # aiormq rejects what waits with it when it knows no reason
            raise BrokerUnavailableError("the channel closed") from error
        raise
