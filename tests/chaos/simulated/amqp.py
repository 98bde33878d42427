"""The face of the simulated broker: what Correio uses of aio-pika's and aiormq's connections.

A publish comes in as the very frames that go over the wire in production and is read from them,
so what Correio forgets to say in a frame (``mandatory``) is not known here either.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import SimpleNamespace
from typing import Any, Self

import aiormq.exceptions as amqp
from aiormq.abc import ChannelFrame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from tests.chaos.simulated.broker import TRANSIT, Consumer, Message, Queue, SimBroker
from tests.chaos.simulated.loop import current
from tests.chaos.simulated.wire import Delivered, Published, read_messages

HEARTBEAT = 15.0
"""Seconds after which a client notices a half-open connection, at the most."""


class SimConnection:
    """An aio-pika connection."""

    def __init__(self, broker: SimBroker) -> None:
        self.broker = broker
        self.life = current()
        self.channels: list[SimChannel] = []
        self.standing = True  # as the broker sees it
        self._arrival = 0.0
        self._closing = broker.loop.create_future()
        broker.connections.append(self)
        self.life.endings.append(self._end)

    @property
    def delay(self) -> float:
        """Seconds until what is sent now arrives; nothing overtakes on a connection."""
        now = self.broker.loop.time()
        arrival = now + self.broker.weather.latency(TRANSIT)
        self._arrival = max(self._arrival + 1e-9, arrival, self.broker.frozen_until)
        return self._arrival - now

    @property
    def transport(self) -> Self:
        """What is under aio-pika's connection."""
        return self

    @property
    def connection(self) -> Self:
        """aiormq's own."""
        return self

    @property
    def closing(self) -> asyncio.Future[Any]:
        """One more observer of the end."""
        return observer_of(self._closing)

    def write(self, payload: bytes) -> None:
        """As the connection's writer: frames of one channel, whose number stands in each."""
        self.channels[int.from_bytes(payload[1:3]) - 1].send(payload)

    def channel(self, **_options: Any) -> "Opening":
        return Opening(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        current()
        self._end()
        self.fail(None)
        await asyncio.sleep(0)

    def _end(self) -> None:
        """This side ends; what it has sent arrives before, as the kernel has it already."""
        self.broker.loop.later(self.delay, self.drop)

    def drop(self) -> None:
        """The broker sees the connection end."""
        if self.standing:
            self.standing = False
            self.broker.connections.remove(self)
            for channel in self.channels:
                channel.leave()

    def cut(self) -> None:
        """The connection breaks; each side notices in its own time."""
        if not self.standing:
            return
        self.drop()
        weather = self.broker.weather
        late = weather.strikes("connection half open")
        seconds = weather.between(1, HEARTBEAT) if late else weather.latency(TRANSIT)
        self.broker.loop.later(seconds, self.life.call, self.fail, self._reason())

    def fail(self, reason: Any) -> None:
        """The client sees the connection end."""
        if not self._closing.done():
            self._closing.set_result(None)
        for channel in self.channels:
            channel.fail(reason)

    def _reason(self) -> Any:
        """What waits is rejected with one of these by aiormq, as it happens."""
        return self.broker.weather.one_of(
            [
                ConnectionResetError("simulated"),
                amqp.AMQPConnectionError("simulated"),
                amqp.ChannelInvalidStateError("simulated"),
                asyncio.CancelledError,
                Exception,
            ]
        )


def observer_of(closing: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """A future that is done when `closing` is, and may be cancelled by itself."""
    observer = closing.get_loop().create_future()

    def ended(_: object) -> None:
        if not observer.done():
            observer.set_result(None)

    closing.add_done_callback(ended)
    return observer


class Opening:
    """``connection.channel()``: to be awaited, or to be entered."""

    def __init__(self, connection: SimConnection) -> None:
        self._connection = connection
        self._channel: SimChannel | None = None

    def __await__(self) -> Generator[Any, None, "SimChannel"]:
        return self._open().__await__()

    async def __aenter__(self) -> "SimChannel":
        self._channel = await self._open()
        return self._channel

    async def __aexit__(self, *_: object) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def _open(self) -> "SimChannel":
        channel = SimChannel(self._connection)
        await channel.answered()
        return channel


class SimChannel:
    """An aio-pika channel and the aiormq channel under it, in one."""

    max_content_size = 131_064

    def __init__(self, connection: SimConnection) -> None:
        self.connection = connection
        self.number = len(connection.channels) + 1
        self.broker = connection.broker
        self.life = connection.life
        self._header = ContentHeader()
        self._confirmations: dict[int, asyncio.Future[Any]] = {}
        self._message_ids: dict[str, int] = {}
        self.delivery_tag = 0
        self.on_consumer_cancel_callbacks: set[Callable[[Any], object]] = set()
        self.consuming: tuple[Consumer, Queue] | None = None
        self.taking: Any = None
        self._closing = self.broker.loop.create_future()
        self._futures: list[asyncio.Future[Any]] = []
        self._numbered = 0
        self._prefetch = 0
        connection.channels.append(self)

    # what is asked of both

    @property
    def is_closed(self) -> bool:
        return self._closing.done()

    @property
    def closing(self) -> asyncio.Future[Any]:
        """One more observer of the end."""
        return observer_of(self._closing)

    async def close(self) -> None:
        current()
        self._to_broker(self.leave)
        self.fail(None)
        await asyncio.sleep(0)

    def leave(self) -> None:
        """The broker sees the channel end."""
        if self.consuming is not None:
            self.broker.leave(*self.consuming)
            self.consuming = None

    def fail(self, reason: Any) -> None:
        """The client sees the channel end."""
        if self._closing.done():
            return
        self._closing.set_result(None)
        waiting, self._futures = self._futures, []
        for future in waiting:
            if not future.done():
                future.set_exception(reason or asyncio.CancelledError)
                future.exception()

    def create_future(self) -> asyncio.Future[Any]:
        future = self.broker.loop.create_future()
        if self._closing.done():
            future.set_exception(ConnectionResetError("simulated"))
            future.exception()
        self._futures.append(future)
        return future

    async def answered(self) -> None:
        """Return when the broker has answered a question."""
        current()
        if self._closing.done():
            raise amqp.ChannelInvalidStateError("closed")
        answer = self.create_future()
        self._ask(lambda: self._back(_resolve, answer))
        await answer

    # aio-pika's face

    async def get_underlay_channel(self) -> "SimChannel":
        return self

    async def declare_queue(self, name: str, **_: Any) -> "Declared":
        await self.answered()
        return Declared(self, name)

    async def declare_exchange(self, _name: str, *_: Any, **__: Any) -> None:
        await self.answered()

    async def get_exchange(self, _name: str, **_: Any) -> None:
        await self.answered()

    # aiormq's face

    async def basic_qos(self, *, prefetch_count: int) -> None:
        self._prefetch = prefetch_count
        await self.answered()

    async def basic_consume(self, queue: str, take: Callable[[Any], Any]) -> None:
        self.taking = take
        answer = self.create_future()
        self._ask(lambda: self._subscribe(queue, answer))
        await answer

    async def basic_ack(self, tag: int, *, multiple: bool = False, **_: Any) -> None:
        current()
        assert multiple
        if self.is_closed:
            raise amqp.ChannelInvalidStateError("closed")
        self._to_broker(lambda: self._acked(tag))
        await asyncio.sleep(0)

    async def basic_publish(
        self, body: bytes, *, properties: Basic.Properties, **where: Any
    ) -> Basic.Ack:
        """The documented way, for when aiormq has another shape than a burst needs."""
        current()
        if self.is_closed:
            raise amqp.ChannelInvalidStateError("closed")
        where.pop("wait")
        self.delivery_tag += 1
        confirmation = self.create_future()
        self._confirmations[self.delivery_tag] = confirmation
        self._message_ids[properties.message_id or ""] = self.delivery_tag
        frames = [Basic.Publish(**where), ContentHeader(0, len(body), properties)]
        frames += [ContentBody(body)] if body else []
        self.send(ChannelFrame.marshall(channel_number=self.number, frames=frames).payload)
        taken: Basic.Ack = await confirmation
        return taken

    # both ways over the wire

    def _ask(self, arrive: Callable[[], object]) -> None:
        """Have something happen at the broker that the client waits for."""
        if self.broker.weather.strikes("cut while a question waits"):
            self._to_broker(self.connection.cut)
        self._to_broker(arrive)

    def _to_broker(self, arrive: Callable[[], object]) -> None:
        """Have something happen at the broker, if the connection lasts until then."""

        def arrived() -> None:
            if not self.connection.standing:
                return
            frozen = self.broker.frozen_until - self.broker.loop.time()
            if frozen > 0:
                self.broker.loop.later(frozen, arrived)
            else:
                arrive()

        self.broker.loop.later(self.connection.delay, arrived)

    def _back(self, callback: Callable[..., object], *args: Any, late: float = 0.0) -> None:
        """Have something happen at the client, if the connection lasts until then."""

        def arrived() -> None:
            if self.connection.standing:
                self.life.call(callback, *args)

        self.broker.loop.later(late + self.connection.delay, arrived)

    def _subscribe(self, name: str, answer: asyncio.Future[Any]) -> None:
        queue = self.broker.queues[name]
        consumer = Consumer(self.life.name, self._deliver, prefetch=self._prefetch)
        queue.consumers.append(consumer)
        self.consuming = (consumer, queue)
        self._back(_resolve, answer)
        self.broker.pump(queue)

    def _deliver(self, tag: int, message: Message) -> None:
        held = self.broker.weather.strikes("delivery held back")
        late = self.broker.weather.between(0, 0.2) if held else 0.0
        connection = self.connection
        connection._arrival = max(connection._arrival, self.broker.loop.time() + late)
        self._back(self._take, Delivered(tag, message))

    def _take(self, message: "Delivered") -> None:
        if not self.is_closed:
            self.broker.loop.create_task(self.taking(message))

    def _acked(self, tag: int) -> None:
        if self.consuming is not None:
            consumer, queue = self.consuming
            self.broker.settle(consumer, queue, tag)

    def cancel_consumer(self, *, tell: bool) -> None:
        """The broker drops the consumer, with a word or without."""
        self.leave()
        if tell:
            for callback in self.on_consumer_cancel_callbacks:
                self._back(callback, None)

    # publishing

    def send(self, payload: bytes) -> None:
        current()
        messages = []
        for publish, properties, body in read_messages(payload):
            self._numbered += 1
            messages.append(Published(self._numbered, publish, properties, body))
        if self.broker.weather.strikes("publish cut before it arrives"):
            self._to_broker(self.connection.cut)
        self._to_broker(lambda: self._published(messages))

    def _published(self, messages: Sequence[Published]) -> None:
        broker, weather = self.broker, self.broker.weather
        alarm = broker.alarm_until - broker.loop.time()
        if alarm > 0:  # the broker does not read from those who publish
            broker.loop.later(alarm, self._published, messages)
            return
        for one in messages:
            if not self.connection.standing:
                return
            if weather.strikes("publish cut in the middle"):
                self.connection.cut()
                return
            late = weather.between(0, 4) if weather.strikes("confirm delayed") else 0.0
            if weather.strikes("nack"):
                self._back(self._confirm, one.tag, False, late=late)
                continue
            queue = broker.route(one.publish.exchange, one.publish.routing_key)
            if queue is not None:
                broker.enqueue(queue, Message(one.body, one.properties.headers or {}))
            elif one.publish.mandatory:
                self._back(self._returned, one.properties.message_id)
            if not weather.strikes("confirm dropped"):
                self._back(self._confirm, one.tag, True, late=late)
        if weather.strikes("publish cut before its confirm"):
            self.connection.cut()

    def _confirm(self, tag: int, taken: bool) -> None:  # noqa: FBT001 - as the frame has it
        _run(self._on_confirm_frame(Basic.Ack(tag) if taken else Basic.Nack(tag)))

    def _returned(self, message_id: str) -> None:
        self._header = ContentHeader(properties=Basic.Properties(message_id=message_id))
        _run(self._on_return_frame(Basic.Return()))

    # what a burst puts its own in the place of, and what it needs for that

    async def _on_confirm_frame(self, frame: Basic.Ack | Basic.Nack) -> None:
        confirmation = self._confirmations.pop(frame.delivery_tag or 0, None)
        if confirmation is None or confirmation.done():
            return
        if isinstance(frame, Basic.Ack):
            confirmation.set_result(frame)
        else:
            confirmation.set_exception(amqp.DeliveryError(None, frame))

    async def _on_return_frame(self, frame: Basic.Return) -> None:
        number = self._message_ids.pop(self._header.properties.message_id or "", 0)
        confirmation = self._confirmations.pop(number, None)
        if confirmation is not None and not confirmation.done():
            confirmation.set_exception(amqp.PublishError(_RETURNED_MESSAGE, frame))

    async def _get_frame(self) -> ContentHeader:
        return self._header

    async def _read_content(self, _frame: object, _header: ContentHeader) -> Any:
        return _RETURNED_MESSAGE


_RETURNED_MESSAGE: Any = SimpleNamespace(delivery=Basic.Return())


def _run(handling: Coroutine[Any, Any, None]) -> None:
    """Run what waits for nothing."""
    try:
        handling.send(None)
    except StopIteration:
        return
    raise RuntimeError("a frame's handling waits for something")


class Declared:
    """A declared queue."""

    def __init__(self, channel: SimChannel, name: str) -> None:
        self._channel = channel
        self.declaration_result = self
        queue = channel.broker.queues[name]
        self.message_count = len(queue.ready)
        self.consumer_count = len(queue.consumers)

    async def bind(self, exchange: str, *, routing_key: str) -> None:
        await self._channel.answered()
        self._channel.broker.bindings.add((exchange, routing_key))


def connector(broker: SimBroker) -> Callable[..., Any]:
    """What stands in for ``aio_pika.connect``."""

    async def connect(_url: str, **_options: Any) -> SimConnection:
        loop, weather = broker.loop, broker.weather
        current()
        await asyncio.sleep(weather.latency(TRANSIT))
        while loop.time() < broker.frozen_until:
            await asyncio.sleep(broker.frozen_until - loop.time())
        if loop.time() < broker.refuses_until or weather.strikes("connect refused"):
            raise ConnectionRefusedError("simulated")
        return SimConnection(broker)

    return connect


def _resolve(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
