"""A task that one process at a time may do, whichever asks first."""

from shared.clock import Clock
from shared.errors import CorreioError
from shared.ids import new_id
from shared.store.port import SqlStore

SECONDS = 120.0
"""For so long a lease holds if nothing else is said; whoever is at work renews it well before."""

_MAKE = "INSERT INTO leases (name, holder, held_until, ended_at) VALUES (?, '', 0, ?) ON CONFLICT (name) DO NOTHING"  # noqa: E501 - one statement
_NOT_FREE = "SELECT 1 FROM leases WHERE name = ? AND (held_until > ? OR ended_at > ?)"
_TAKE = (
    "UPDATE leases SET holder = ?, held_until = ? "
    "WHERE name = ? AND held_until <= ? AND ended_at <= ?"
)
_RENEW = "UPDATE leases SET held_until = ? WHERE name = ? AND holder = ?"
_GIVE_BACK = "UPDATE leases SET held_until = 0 WHERE name = ? AND holder = ?"
_END = "UPDATE leases SET held_until = 0, ended_at = ? WHERE name = ? AND holder = ?"


class LeaseLostError(CorreioError):
    """Another process took the task over, since this one was silent for too long."""


class Lease:
    """The right to do one task, from a row of the store."""

    def __init__(
        self, store: SqlStore, name: str, *, clock: Clock, seconds: float = SECONDS
    ) -> None:
        """`seconds`: for so long nobody else goes on with the task if its holder dies."""
        self._seconds = seconds
        self._store = store
        self._name = name
        self._clock = clock
        self._holder = new_id()
        self._renew_after = 0.0

    async def take(self, *, ended_before: int) -> bool:
        """Take it, unless somebody holds it or it was ended after that time.

        Writes only if it seems free. A task that was never done counts as ended when it was first
        asked for, or when the store was made.
        """
        now = self._clock.now()
        if await self._store.fetch(_NOT_FREE, (self._name, now, ended_before)):
            return False
        _, taken = await self._store.change([
            (_MAKE, (self._name, now)),
            (_TAKE, (self._holder, self._until(), self._name, now, ended_before)),
        ])  # fmt: skip
        return taken > 0

    async def renew(self) -> None:
        """Keep it; call this at least every half of its seconds.

        Raises:
            LeaseLostError: it is another's by now.
        """
        if self._clock.monotonic() < self._renew_after:
            return
        (kept,) = await self._store.change([(_RENEW, (self._until(), self._name, self._holder))])
        if not kept:
            raise LeaseLostError(f"{self._name}: another process has taken over")

    async def give_back(self) -> None:
        """Let it go with the task undone."""
        await self._store.change([(_GIVE_BACK, (self._name, self._holder))])

    async def end(self) -> None:
        """Let it go with the task done."""
        await self._store.change([(_END, (self._clock.now(), self._name, self._holder))])

    async def ended_at(self) -> int | None:
        """When the task was last done, in Unix milliseconds; None if it was never."""
        found = await self._store.fetch("SELECT ended_at FROM leases WHERE name = ?", (self._name,))
        return int(found[0][0]) if found else None

    def _until(self) -> int:
        self._renew_after = self._clock.monotonic() + self._seconds / 4
        return self._clock.now() + int(self._seconds * 1000)
