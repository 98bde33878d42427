"""Publishing many messages in one write.

The ordinary publish costs a task, a lock, a future and a queue hop for each message. Here all
messages that come in one turn of the loop are encoded together and written on the connection as one
piece, and the broker's answers are matched here too; of aiormq's channel there remain opening,
reading and closing. When many come in one turn they are written in several pieces, so that the
broker has something to do while the rest is still being read.

This leans on attributes of aiormq's channel that its documentation does not promise. They are
used in this module only; `fits` looks for them at every connect, and where one is missing the
publisher goes the documented way. A contract test holds both ways to the same promises.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, cast

import aiormq
from aiormq.exceptions import ChannelInvalidStateError, DeliveryError, PublishError
from msgspec import Struct
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from shared.broker import frames
from shared.ids import new_id

PERSISTENT = frames.PERSISTENT
WINDOW = 4_096
"""Messages unconfirmed at most."""
WINDOW_BYTES = 16_777_216
"""Their bytes, beyond which nothing more is handed over: a broker that has stopped reading makes us
hold so many, and one publish more, until it reads again or the connection is lost."""

PIECE = 200
"""Messages that are written at once, although more may come in the same turn of the loop."""


class Message(Struct, frozen=True):
    """What `publish` needs of one message."""

    body: bytes
    exchange: str
    routing_key: str
    headers: dict[str, Any] = {}


def fits(channel: aiormq.Channel) -> bool:
    """Whether this aiormq has the shape that a burst leans on."""
    return (
        getattr(channel, "delivery_tag", None) == 0
        and isinstance(getattr(channel, "max_content_size", None), int)
        and all(
            asyncio.iscoroutinefunction(getattr(channel, name, None))
            for name in ("_on_confirm_frame", "_on_return_frame", "_get_frame", "_read_content")
        )
    )


class _Waiting:
    """Messages published together; done when the outcome of every one of them is in."""

    __slots__ = ("failure", "left", "messages", "settled", "size")

    def __init__(self, messages: Sequence[Message], settled: asyncio.Future[None]) -> None:
        self.messages = messages
        self.settled = settled
        self.left = len(messages)
        self.size = 0
        self.failure: BaseException | None = None

    def one_is_in(self) -> None:
        self.left -= 1
        if self.left or self.settled.done():
            return
        if self.failure is not None:
            self.settled.set_exception(self.failure)
        else:
            self.settled.set_result(None)


class Burst:
    """Publishes over one channel, which nobody else may publish on; `run` must be running."""

    def __init__(self, channel: aiormq.Channel, write: Callable[[bytes], object]) -> None:
        """`write` sends whole frames on the connection of `channel`."""
        self._channel = channel
        self._write = write
        self._waiting: deque[_Waiting] = deque()
        self._outstanding: dict[int, _Waiting] = {}
        self._outstanding_bytes = 0
        self._gathered = 0
        self._come = asyncio.Event()
        self._prefix = new_id().encode() + b"-"
        self._number = 0
        self._over = False
        taken = cast("Any", channel)  # they are methods: on this channel ours take their place
        taken._on_confirm_frame = self._on_confirm  # noqa: SLF001 - see `fits`
        taken._on_return_frame = self._on_return  # noqa: SLF001 - likewise

    @property
    def outstanding(self) -> int:
        """Messages whose outcome is not in yet."""
        return len(self._outstanding)

    @property
    def _full(self) -> bool:
        return len(self._outstanding) >= WINDOW or self._outstanding_bytes >= WINDOW_BYTES

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when the broker answers for every message.

        One that is given up before it was handed over is never sent.

        Raises:
            aiormq.exceptions.PublishError: one was returned.
            aiormq.exceptions.DeliveryError: one was refused.
            aiormq.exceptions.AMQPError: the channel is closed, or closed meanwhile.
            ValueError: a message cannot be encoded; none of `messages` has been sent.
        """
        if self._over or self._channel.is_closed:
            raise ChannelInvalidStateError("the channel is closed")
        if not messages:
            return
        waiting = _Waiting(messages, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._gathered += waiting.left
        if self._gathered >= PIECE:
            self._hand_over()
        else:
            self._come.set()
        try:
            await waiting.settled
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):  # it was handed over
                self._waiting.remove(waiting)
            raise

    async def run(self) -> None:
        """Hand over what waits, until cancelled; then fail what still does."""
        try:
            while True:
                await self._come.wait()
                self._come.clear()
                self._hand_over()
        finally:
            self._over = True
            for waiting in {*self._waiting, *self._outstanding.values()}:
                if not waiting.settled.done():
                    waiting.settled.set_exception(ChannelInvalidStateError("the channel closed"))
            self._waiting.clear()
            self._outstanding.clear()
            self._outstanding_bytes = 0

    def _hand_over(self) -> None:
        """Write what waits, as far as the window goes."""
        pieces: list[bytes] = []
        while self._waiting and not self._full:
            waiting = self._waiting.popleft()
            if not waiting.settled.done():  # else its publisher has just given up
                pieces += self._encoded(waiting)
        self._gathered = 0
        if pieces:
            self._write(b"".join(pieces))

    def _encoded(self, waiting: _Waiting) -> list[bytes]:
        """The frames of messages published together, numbered as the broker will number them."""
        channel, number, made = self._channel, self._number, []
        try:
            for message in waiting.messages:
                number += 1
                made += frames.publish(
                    channel=channel.number,
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                    message_id=self._prefix + str(number).encode(),  # never the event's own id
                    headers=message.headers,
                    body=message.body,
                    largest=channel.max_content_size,
                )
        except ValueError as error:
            waiting.settled.set_exception(error)
            return []
        self._outstanding.update(dict.fromkeys(range(self._number + 1, number + 1), waiting))
        self._number = number
        waiting.messages = ()
        waiting.size = sum(map(len, made))
        self._outstanding_bytes += waiting.size
        return made

    async def _on_confirm(self, frame: Basic.Ack | Basic.Nack) -> None:
        """The broker took, or refused, one message or all up to one."""
        tag = frame.delivery_tag or 0
        all_up_to = takewhile(tag.__ge__, self._outstanding)
        for one in list(all_up_to) if frame.multiple else (tag,):
            waiting = self._outstanding.pop(one, None)
            if waiting is None:
                continue
            if isinstance(frame, Basic.Nack):
                waiting.failure = waiting.failure or DeliveryError(None, frame)
            waiting.one_is_in()
            if not waiting.left:
                self._outstanding_bytes -= waiting.size
        if self._waiting:
            self._come.set()

    async def _on_return(self, frame: Basic.Return) -> None:
        """The broker found no queue for a message; that it took it is still to come."""
        channel = cast("Any", self._channel)
        header: ContentHeader = await channel._get_frame()  # noqa: SLF001 - see `fits`
        message = await channel._read_content(frame, header)  # noqa: SLF001 - likewise
        number = (header.properties.message_id or "").encode().removeprefix(self._prefix)
        waiting = self._outstanding.get(int(number)) if number.isdigit() else None
        if waiting is not None:
            waiting.failure = waiting.failure or PublishError(message, frame)
