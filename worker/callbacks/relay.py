"""From the store to the broker: every delivery whose wake time has come gets a message.

The relay is the sweeper as well. Taking a delivery moves its wake time to ``callbacks.wake_grace``
after it is due; if its message gets lost on the way, with the broker's data for instance, the
wake time passes and the delivery comes up here again. So what is lost costs a delay of that
grace, and what is late costs a second message, which finds nothing to do.

A backlog must not multiply itself that way. The relay therefore keeps the work queue short: when
a whole batch came up it asks how long the queue is, and publishes what it has room for, up to
`FULL` messages. Nor does it publish while this worker's slots are all busy and enough waits for
them. What is not published stays where it is safest, in the store.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from shared.broker.connection import first_of
from shared.errors import TRANSIENT, BrokerUnavailableError, TopologyError
from shared.logs import get_logger
from shared.store.rows import Wakeup
from worker.callbacks.lanes import Lanes
from worker.callbacks.means import Means
from worker.callbacks.outbound import message_for, publish

log = get_logger(__name__)

FULL: Final = 4_000
"""Messages in the work queue above which the relay waits: a few seconds of work."""

Depth = Callable[[], Awaitable[int]]
"""How many messages wait in the work queue.

Raises BrokerUnavailableError or TopologyError when it cannot be told.
"""


class Relay:
    """Moves wake-ups from the store to the broker until told to stop."""

    def __init__(self, means: Means, *, depth: Depth, lanes: Lanes) -> None:
        self._means = means
        self._lanes = lanes
        self._depth = depth
        self._full = False
        self._room = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop` is set."""
        while not stop.is_set():
            try:
                taken = await self.step()
            except TRANSIENT as error:
                await first_of(stop.wait(), self._means.patience.recovered(error))
                continue
            if taken < self._means.config.relay_batch:
                await first_of(
                    stop.wait(), self._means.clock.sleep(self._means.config.relay_interval)
                )

    async def step(self) -> int:
        """Relay one batch; return how many deliveries came up.

        Raises:
            StoreUnavailableError: nothing is lost, their wake time comes again.
            StoreConflictError: likewise.
        """
        if not self._means.publisher.connected or self._lanes.has_ample:
            return 0
        if self._full and not await self._has_room():
            return 0
        now = self._means.clock.now()
        wakeups = await self._means.store.take_wakeups(
            now=now,
            grace=round(self._means.config.wake_grace * 1000),
            limit=self._means.config.relay_batch,
        )
        self._full = len(wakeups) >= self._means.config.relay_batch
        self._room -= len(wakeups)
        await self._publish(wakeups, now)
        return len(wakeups)

    async def _publish(self, wakeups: list[Wakeup], now: int) -> None:
        messages, soon = [], {}
        for one in wakeups:
            message = message_for(one.id, due=one.due_at, now=now)
            if message is None:
                soon[one.id] = one.due_at
            else:
                messages.append(message)
        if not await publish(self._means.publisher, messages):
            soon = {one.id: max(one.due_at, now + _shortly()) for one in wakeups}
        if soon:
            await self._means.store.park(soon)

    async def _has_room(self) -> bool:
        """Whether the queue takes more; what was room at the last look need not be looked for."""
        if self._room <= 0:
            try:
                self._room = FULL - await self._depth()
            except (BrokerUnavailableError, TopologyError):
                return False
        return self._room > 0


def _shortly() -> int:
    """Milliseconds until a wake-up that could not be published is tried again, spread."""
    return random.randint(500, 1_500)  # noqa: S311 - spreads load, protects nothing
