"""Which endpoints get callbacks: holds what waits for those that do not, releases it later.

An endpoint gets nothing while it is paused by an operator, disabled by its own 410, or not in
this release's configuration. What waits for it is held; when it is back, its deliveries are
released at ``callbacks.release_rate`` a second by each worker.
"""

import asyncio
import itertools
from typing import Final

from msgspec import Struct

from shared.broker.connection import first_of
from shared.errors import TRANSIENT
from shared.logs import get_logger
from shared.store.rows import EndpointStatus
from worker.callbacks import metrics
from worker.callbacks.lanes import Lanes
from worker.callbacks.means import Means

log = get_logger(__name__)

INTERVAL: Final = 1.0
"""Seconds between two looks at the stored statuses."""

RELEASES: Final = 10
"""Releases between two looks: small ones, since a burst would hold live deliveries up."""

HOLDS: Final = 2_000
"""Deliveries that are held at once: a backlog of any size keeps others waiting for a moment only,
and is never too much for one statement."""

LOOK_AGAIN: Final = 30
"""Looks after which every enabled endpoint is searched for held deliveries once more: one may
have been written as held by a transaction that began before its endpoint was resumed."""


class Release(Struct):
    """A release under way: what it may release by now, and what it has released so far."""

    allowance: float = 0.0
    released: int = 0


class Steward:
    """Follows the statuses of endpoints."""

    def __init__(self, means: Means, lanes: Lanes) -> None:
        self._means = means
        self._lanes = lanes.all
        self._rate = means.config.release_rate
        self._to_hold: set[str] = set()
        self._holding: dict[str, int] = {}  # how many so far
        self._releasing: dict[str, Release] = {}
        self._looks = 0

    def may_call(self, endpoint: str) -> bool:
        """Whether the endpoint is configured and enabled."""
        lane = self._lanes.get(endpoint)
        return lane is not None and lane.open

    def hold_soon(self, endpoint: str) -> None:
        """Have the deliveries of an endpoint held at the next look."""
        self._to_hold.add(endpoint)

    async def gone(self, endpoint: str) -> None:
        """Disable an endpoint that answered 410 and hold what waits for it."""
        now = self._means.clock.now()
        log.warning("endpoint.disabled", endpoint=endpoint, reason="answered 410")
        await self._means.patience.insist(
            lambda: self._means.store.set_endpoint(
                endpoint, EndpointStatus.DISABLED, reason="answered 410", now=now
            )
        )
        self._lanes[endpoint].gone = False
        self.hold_soon(endpoint)

    async def run(self, stop: asyncio.Event) -> None:
        """Look once a second until `stop` is set; hold and release a little more often."""
        for tick in itertools.count():
            if stop.is_set():
                return
            try:
                if tick % RELEASES == 0:
                    await self.look()
                else:
                    await self.hold()
                await self.release()
            except TRANSIENT as error:
                await first_of(stop.wait(), self._means.patience.recovered(error))
            await first_of(stop.wait(), self._means.clock.sleep(INTERVAL / RELEASES))

    async def look(self) -> None:
        """Read the statuses and hold accordingly.

        Raises:
            StoreUnavailableError: the next look does the rest.
            StoreConflictError: likewise.
        """
        rows = await self._means.store.endpoint_rows()
        stopped = {row.id for row in rows.values() if row.status is not EndpointStatus.ENABLED}
        for name, lane in self._lanes.items():
            enabled = name not in stopped and not lane.gone
            if (enabled and not lane.open) or self._looks % LOOK_AGAIN == 0:
                self._releasing.setdefault(name, Release())
            lane.open = enabled
        self._looks += 1
        for endpoint in stopped | self._to_hold:
            self._holding.setdefault(endpoint, 0)
        self._to_hold.clear()
        await self.hold()

    async def hold(self) -> None:
        """Hold some more of what waits for each endpoint that gets nothing.

        Raises:
            StoreUnavailableError: the next time does the rest.
            StoreConflictError: likewise.
        """
        for endpoint in sorted(self._holding):
            await self._hold(endpoint)

    async def release(self) -> None:
        """Release what a tenth of a look's time allows to each endpoint that is enabled.

        Raises:
            StoreUnavailableError: the next release does the rest.
            StoreConflictError: likewise.
        """
        for endpoint, release in sorted(self._releasing.items()):
            if not self.may_call(endpoint):
                del self._releasing[endpoint]
                continue
            release.allowance += self._rate * INTERVAL / RELEASES
            limit = int(release.allowance)
            if not limit:
                continue
            now = self._means.clock.now()
            released = await self._means.store.release_held(endpoint, now=now, limit=limit)
            release.allowance -= limit
            release.released += released
            metrics.RELEASED.labels(endpoint).inc(released)
            if released < limit:
                del self._releasing[endpoint]
                if release.released:
                    log.info("deliveries.released", endpoint=endpoint, count=release.released)

    async def _hold(self, endpoint: str) -> None:
        if not self.may_call(endpoint):
            now = self._means.clock.now()
            held = await self._means.store.hold(endpoint, now=now, limit=HOLDS)
            metrics.HELD.labels(endpoint).inc(held)
            self._holding[endpoint] += held
            if held == HOLDS:
                return
        if count := self._holding.pop(endpoint):
            log.info("deliveries.held", endpoint=endpoint, count=count)
