"""A broker as RabbitMQ behaves, as far as Correio leans on it: queues, routing, confirms, returns.

It knows nothing of frames; `tests.chaos.simulated.amqp` is its face. What is confirmed is safe
here: a restart keeps queues, messages and bindings and gives back what was unacknowledged.
"""

import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from shared.broker import topology
from tests.chaos.simulated.loop import SimLoop
from tests.chaos.simulated.weather import Weather

TRANSIT = 0.0004
"""Seconds on the way to the broker or back, typically."""


class Message(Struct):
    """A message at rest; `returned` counts how often a consumer did not settle it."""

    body: bytes
    headers: Mapping[str, Any]
    returned: int = 0

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return str(self.headers.get("event-id") or f"{zlib.crc32(self.body):08x}")


class Consumer:
    """Who takes from a queue, and what it has not settled yet."""

    def __init__(
        self, name: str, deliver: Callable[[int, Message], None], *, prefetch: int
    ) -> None:
        self.name = name
        self.deliver = deliver
        self.prefetch = prefetch
        self.unsettled: OrderedDict[int, Message] = OrderedDict()
        self.tag = 0


class Queue:
    """A quorum queue."""

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.name = name
        self.ready: deque[Message] = deque()
        self.consumers: list[Consumer] = []
        self.limited = "x-delivery-limit" in arguments
        self.ttl = arguments.get("x-message-ttl")
        self.dead_exchange = arguments.get("x-dead-letter-exchange")
        self.dead_key = arguments.get("x-dead-letter-routing-key", name)

    @property
    def depth(self) -> int:
        """Messages in it, those under way to a consumer included."""
        return len(self.ready) + sum(len(one.unsettled) for one in self.consumers)


class SimBroker:
    """One broker node with Correio's topology in place."""

    def __init__(
        self, loop: SimLoop, weather: Weather, *, delivery_limit: int, say: Callable[[str], None]
    ) -> None:
        """A message returned more than `delivery_limit` times is dead-lettered."""
        self.loop = loop
        self.weather = weather
        self.limit = delivery_limit
        self.say = say
        self.queues = {name: Queue(name, args) for name, (_, args) in topology.QUEUES.items()}
        self.bindings: set[tuple[str, str]] = set()
        self.connections: list[Any] = []
        self.refuses_until = 0.0
        self.frozen_until = 0.0
        self.alarm_until = 0.0
        self.declare()

    def declare(self) -> None:
        """Bind every queue to its exchange, as `topology.declare_on` does."""
        self.bindings = {(exchange, name) for name, (exchange, _) in topology.QUEUES.items()}

    def route(self, exchange: str, key: str) -> Queue | None:
        """The queue that a message ends up in; None when it is unroutable."""
        name = topology.DEAD if exchange == topology.DEAD else key
        return self.queues.get(name) if (exchange, name) in self.bindings else None

    def enqueue(self, queue: Queue, message: Message) -> None:
        """Take responsibility for a message."""
        self.say(f"{queue.name} takes {message.name}")
        if queue.ttl is not None:
            queue.ready.append(message)
            self.loop.later(queue.ttl / 1000, self._expire, queue, message)
            return
        place = len(queue.ready)
        if place and self.weather.strikes("message out of order"):
            place = self.weather.chance.randrange(place + 1)
        queue.ready.insert(place, message)
        self.pump(queue)

    def pump(self, queue: Queue) -> None:
        """Hand messages to consumers that have room."""
        if self.loop.time() < self.frozen_until:
            return
        while queue.ready:
            free = [one for one in queue.consumers if len(one.unsettled) < one.prefetch]
            if not free:
                return
            consumer = self.weather.one_of(free)
            message = queue.ready.popleft()
            consumer.tag += 1
            consumer.unsettled[consumer.tag] = message
            self.say(f"{queue.name} gives {message.name} to {consumer.name} as {consumer.tag}")
            consumer.deliver(consumer.tag, message)

    def settle(self, consumer: Consumer, queue: Queue, tag: int) -> None:
        """An acknowledgement of everything up to `tag` has arrived."""
        self.say(f"{consumer.name} settles {tag} of {queue.name}")
        while consumer.unsettled and next(iter(consumer.unsettled)) <= tag:
            consumer.unsettled.popitem(last=False)
        self.pump(queue)

    def leave(self, consumer: Consumer, queue: Queue) -> None:
        """The consumer is gone: what it held goes back, or to the dead letters."""
        if consumer not in queue.consumers:
            return
        queue.consumers.remove(consumer)
        given_back = list(consumer.unsettled.values())
        self.say(f"{consumer.name} leaves {queue.name}, gives back {len(given_back)}")
        consumer.unsettled.clear()
        for message in reversed(given_back):
            message.returned += 1
            if queue.limited and message.returned > self.limit:
                self._dead_letter(queue, message)
            elif self.weather.strikes("message out of order"):
                queue.ready.append(message)
            else:
                queue.ready.appendleft(message)
        self.loop.later(TRANSIT, self.pump, queue)

    def restart(self, seconds: float) -> None:
        """Break every connection and take none for a while."""
        self.refuses_until = max(self.refuses_until, self.loop.time() + seconds)
        for connection in list(self.connections):
            connection.cut()

    def freeze(self, seconds: float) -> None:
        """Neither read nor write for a while, with all connections standing."""
        self.frozen_until = max(self.frozen_until, self.loop.time() + seconds)
        self.loop.later(seconds + TRANSIT, self._thaw)

    def lose_callback_messages(self) -> None:
        """What a loss of the broker's data costs, of the messages that stand for deliveries."""
        for queue in self.queues.values():
            if queue.name.startswith(topology.CALLBACKS):
                queue.ready.clear()

    def _thaw(self) -> None:
        for queue in self.queues.values():
            self.pump(queue)

    def _expire(self, queue: Queue, message: Message) -> None:
        place = next((at for at, one in enumerate(queue.ready) if one is message), None)
        if place is None:
            return  # it was lost meanwhile
        if self.route(queue.dead_exchange, queue.dead_key) is None:
            self.loop.later(1.0, self._expire, queue, message)  # it is kept until it can be routed
            return
        del queue.ready[place]
        self._dead_letter(queue, message)
        if self.weather.strikes("message twice"):  # dead-lettering is at-least-once
            self._dead_letter(queue, message)

    def _dead_letter(self, queue: Queue, message: Message) -> None:
        target = self.route(queue.dead_exchange, queue.dead_key)
        if target is None:
            self.loop.later(1.0, self._dead_letter, queue, message)
            return
        self.enqueue(target, Message(message.body, message.headers))
