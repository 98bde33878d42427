"""Publishing many messages in one write.

The ordinary publish costs a task, a lock and a queue hop for each message. Here all messages
that wait are encoded together and handed to the connection's writer as one piece; the broker's
confirms come back one by one as ever. Messages that come while a piece is being handed over
form the next one, so load makes the pieces larger by itself.

This leans on attributes of aiormq's channel that its documentation does not promise. They are
used in this module only; `fits` looks for them at every connect, and where one is missing the
publisher goes the documented way. A contract test holds both ways to the same promises.
"""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any, cast

import aiormq
from aiormq.abc import ChannelFrame
from aiormq.exceptions import ChannelInvalidStateError
from msgspec import Struct
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from shared.broker.faults import cancelled_ourselves
from shared.ids import new_id

PERSISTENT = 2
WINDOW = 4_096
"""Messages unconfirmed at most: a confirm of several scans all that are outstanding."""


class Message(Struct, frozen=True):
    """What `publish` needs of one message."""

    body: bytes
    exchange: str
    routing_key: str
    headers: dict[str, Any] = {}


def fits(channel: aiormq.Channel) -> bool:
    """Whether this aiormq has the shape that a burst leans on."""
    return (
        hasattr(channel, "lock")
        and isinstance(getattr(channel, "confirmations", None), dict)
        and isinstance(getattr(channel, "message_id_delivery_tag", None), dict)
        and isinstance(getattr(channel, "delivery_tag", None), int)
        and hasattr(channel.lock, "__aenter__")
        and isinstance(getattr(channel, "write_queue", None), asyncio.Queue)
        and isinstance(getattr(channel, "max_content_size", None), int)
        and callable(getattr(channel, "create_future", None))
    )


class _Waiting:
    """Messages published together; done when the outcome of every one of them is in."""

    __slots__ = ("_failure", "_left", "messages", "settled")

    def __init__(self, messages: Sequence[Message], settled: asyncio.Future[None]) -> None:
        self.messages = messages
        self.settled = settled
        self._left = len(messages)
        self._failure: BaseException | None = None

    def one_is_in(self, failure: BaseException | None) -> None:
        self._failure = self._failure or failure
        self._left -= 1
        if self._left or self.settled.done():
            return
        if self._failure is not None:
            self.settled.set_exception(self._failure)
        else:
            self.settled.set_result(None)


class _Confirmation:
    """Stands in the channel's table where the ordinary publish puts a future."""

    __slots__ = ("_burst", "_done", "_message_id", "_waiting")

    def __init__(self, burst: "Burst", message_id: str, waiting: _Waiting) -> None:
        self._burst = burst
        self._message_id = message_id
        self._waiting = waiting
        self._done = False

    def done(self) -> bool:
        return self._done

    def cancelled(self) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def set_result(self, _frame: object) -> None:
        self._settle(None)

    def set_exception(self, failure: BaseException) -> None:
        self._settle(failure)

    def _settle(self, failure: BaseException | None) -> None:
        self._done = True
        self._burst.forget(self._message_id)
        self._waiting.one_is_in(failure)


class Burst:
    """Publishes over one channel; `run` must be running."""

    def __init__(self, channel: aiormq.Channel) -> None:
        self._channel = channel
        self._waiting: list[_Waiting] = []
        self._come = asyncio.Event()
        self._room = asyncio.Event()
        self._prefix = new_id()
        self._numbers = itertools.count()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when the broker answers for every message.

        Raises:
            aiormq.exceptions.PublishError: one was returned.
            aiormq.exceptions.DeliveryError: one was refused.
            aiormq.exceptions.AMQPError: the channel is closed, or closed meanwhile.
        """
        if self._channel.is_closed:
            raise ChannelInvalidStateError("the channel is closed")
        if not messages:
            return
        waiting = _Waiting(messages, self._channel.create_future())
        self._waiting.append(waiting)
        self._come.set()
        try:
            await waiting.settled
        except asyncio.CancelledError:
            if cancelled_ourselves():
                raise
            raise ChannelInvalidStateError("the channel closed") from None

    async def run(self) -> None:
        """Hand over what waits, piece by piece, until cancelled."""
        while True:
            await self._come.wait()
            self._come.clear()
            while self._waiting:
                while len(self._channel.confirmations) >= WINDOW:
                    self._room.clear()
                    await self._room.wait()
                await self._hand_over()

    def forget(self, message_id: str) -> None:
        """The outcome of this message is in: drop its number and make room for another."""
        self._channel.message_id_delivery_tag.pop(message_id, None)
        self._room.set()

    async def _hand_over(self) -> None:
        channel = self._channel
        async with channel.lock:
            frames: list[Any] = []
            while self._waiting and len(channel.confirmations) < WINDOW:
                waiting = self._waiting.pop(0)
                if not waiting.settled.done():  # else its publisher gave up before it was sent
                    for message in waiting.messages:
                        frames += self._frames(message, waiting)
            if frames:
                piece = ChannelFrame.marshall(channel_number=channel.number, frames=frames)
                await channel.write_queue.put(piece)

    def _frames(self, message: Message, waiting: _Waiting) -> list[Any]:
        """Number one message as the broker will, note whom to tell, and return its frames."""
        channel = self._channel
        message_id = f"{self._prefix}-{next(self._numbers)}"
        channel.delivery_tag += 1
        confirmation = _Confirmation(self, message_id, waiting)
        channel.confirmations[channel.delivery_tag] = cast("asyncio.Future[Any]", confirmation)
        channel.message_id_delivery_tag[message_id] = channel.delivery_tag
        body, size = message.body, channel.max_content_size
        return [
            Basic.Publish(
                exchange=message.exchange, routing_key=message.routing_key, mandatory=True
            ),
            ContentHeader(
                body_size=len(body),
                properties=Basic.Properties(
                    delivery_mode=PERSISTENT,
                    message_id=message_id,  # never the event's own id: returns go by it
                    headers=message.headers,
                ),
            ),
            *(ContentBody(body[at : at + size]) for at in range(0, len(body), size)),
        ]
