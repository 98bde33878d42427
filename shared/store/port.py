"""The store as its users see it: three narrow protocols, kept by SQLite and by PostgreSQL.

Every method raises `StoreUnavailableError` when the store cannot be reached, is locked for too
long or is full, and `StoreConflictError` when the transaction must be run again from its start.
Anything else it raises means that the data itself was refused.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from shared.domain.aggregates import State
from shared.domain.keys import AggregateKey
from shared.store.retention import Kind, Limits, Page, Step
from shared.store.rows import (
    Aggregate,
    AttemptRecord,
    Changes,
    Delivery,
    EndpointRow,
    EndpointStatus,
    EventRef,
    FoldedEntry,
    KnownEvent,
    Standing,
    Wakeup,
)
from shared.store.seals import Sealing


class EventTransaction(Protocol):
    """One transaction of the events worker. Leaving it normally commits durably."""

    async def find_events(self, refs: Collection[EventRef]) -> dict[EventRef, list[KnownEvent]]:
        """The events stored under each reference; a reference without any is absent."""
        ...

    async def lock_aggregates(
        self, keys: Collection[AggregateKey]
    ) -> dict[AggregateKey, Aggregate]:
        """Lock and read each aggregate, making those that do not exist (version 0, initial state).

        Locks are taken in the order of the keys, so that two transactions never wait for each
        other in a circle; they last until the transaction ends.
        """
        ...

    async def histories(self, aggregate_ids: Collection[int]) -> dict[int, list[FoldedEntry]]:
        """Every fact stored of each aggregate, in no particular order."""
        ...

    async def erased(self, keys: Collection[AggregateKey]) -> set[AggregateKey]:
        """Those of these consents that are erased; none of them is locked."""
        ...

    async def tombstones(self, names: Collection[str]) -> set[str]:
        """Those of these ids by which something was erased, whatever it was."""
        ...

    async def peek(self, key: AggregateKey) -> State | None:
        """The state of an aggregate, not locked and without its personal part; None if unknown."""
        ...

    async def reserve(self, count: int) -> Sequence[int]:
        """`count` fresh event numbers, ascending."""
        ...

    async def write(self, changes: Changes) -> None:
        """Write everything, what is personal sealed.

        What is written of an aggregate belongs to one that was locked in this transaction. A
        clash on (partner app, event id, variant) is a conflict.
        """
        ...


class EventStore(Protocol):
    """What the events worker needs."""

    @property
    def sealing(self) -> Sealing:
        """What seals, and what makes digests."""
        ...

    @property
    def parallel(self) -> int:
        """How many transactions it runs at once to advantage."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[EventTransaction]:
        """A transaction; leaving the block by an exception rolls it back."""
        ...

    async def unsettled(self, *, quiet_since: int, limit: int) -> list[AggregateKey]:
        """Product requests that will settle by time, none of whose events arrived after then.

        They have status PENDING and no known product list.
        """
        ...


class TraceStore(Protocol):
    """What the eraser needs beyond queries."""

    async def wipe(self, aggregate_ids: Sequence[int]) -> dict[str, str]:
        """Have the database overwrite what it left of keys and tokens that were deleted.

        That is of these aggregates, and of every quarantine entry. Returns what was done and what
        is left to others, by place. Raises `StoreUnavailableError` where it must be tried again.
        """
        ...

    async def wipe_notes(self) -> None:
        """The same for what the table of erasures itself held while they were under way."""
        ...

    async def wipe_all(self) -> None:
        """The same for everything that was ever deleted or changed of keys."""
        ...


class DeliveryStore(Protocol):
    """What the callbacks worker needs. All times are Unix milliseconds."""

    async def take_wakeups(self, *, now: int, grace: int, limit: int) -> list[Wakeup]:
        """Pending and retrying deliveries whose wake time has come, oldest first.

        Sets each one's wake time to max(due, now) + `grace` in the same transaction, so that it
        comes back here by itself if its message gets lost. Two callers never get the same row.
        Fresh deliveries have their due time as wake time.
        """
        ...

    async def park(self, wake_at: Mapping[str, int]) -> None:
        """Set the wake time of deliveries that cannot be attempted now; costs no attempt."""
        ...

    async def load(self, ids: Collection[str]) -> list[Standing]:
        """How the deliveries with these ids stand; unknown ids are left out."""
        ...

    async def claim(
        self, ids: Collection[str], *, lease: str, now: int, lease_until: int
    ) -> list[Delivery]:
        """Take a lease on those that are pending or retrying, due, and under no live lease.

        Returns the deliveries claimed, as they stand; also sets their wake time to `lease_until`.
        """
        ...

    async def record(self, attempts: Sequence[AttemptRecord]) -> list[str]:
        """Append attempts and move their deliveries on, freeing the leases.

        Guarded by the lease: an attempt whose lease is no longer in force is still appended to
        the history, but moves nothing unless it was a success. Returns the ids that moved.
        A delivery that becomes retrying has its due time as wake time. A result for a delivery
        that was cancelled or held meanwhile is appended; only a success changes its state.
        Recording again what has moved its delivery does nothing.
        """
        ...

    async def release_leases(self, ids: Collection[str], *, lease: str, now: int) -> None:
        """Give claimed deliveries back unattempted, to be woken at `now`."""
        ...

    async def hold(self, endpoint: str, *, now: int, limit: int) -> int:
        """Hold up to `limit` pending or retrying deliveries of an endpoint; returns how many.

        Fewer than `limit` mean that none is left but what somebody else is just changing.
        """
        ...

    async def release_held(self, endpoint: str, *, now: int, limit: int) -> int:
        """Make up to `limit` held deliveries of an endpoint pending, due now, oldest first."""
        ...

    async def endpoint_rows(self) -> dict[str, EndpointRow]:
        """The stored status by endpoint; one without a row is enabled."""
        ...

    async def set_endpoint(
        self, endpoint: str, status: EndpointStatus, *, reason: str, now: int
    ) -> None:
        """Store an endpoint's status."""
        ...

    async def oldest_due(self) -> int | None:
        """Due time of the most overdue pending or retrying delivery; None if there is none."""
        ...


class RetentionStore(Protocol):
    """What keeps age in bounds. Each method is one step that holds writers up for a moment only."""

    step: float
    """Seconds that a step ought to take."""

    async def make_room(self, *, now: int) -> None:
        """Make what the rows of today and of the next days need."""
        ...

    async def forget(self, kind: Kind, *, before: int, after: str | int | None, limit: int) -> Step:
        """Remove some payloads or attempts from before then, about `limit` of them.

        PostgreSQL drops a whole day if it can. Begins after the key `after`, None for the start.
        """
        ...

    async def ended(self, limits: Limits, *, links: bool, after: int, limit: int) -> Page:
        """The next `limit` aggregates by id, and which of them may go: links, or the others."""
        ...

    async def purge(self, ids: Sequence[int], limits: Limits, *, links: bool) -> Step:
        """Remove those of these aggregates that may still go, with all that belongs to them."""
        ...


Statement = tuple[str, Sequence[Any]]
"""SQL that both databases understand, with ``?`` for each value, and the values."""


class SqlStore(Protocol):
    """What the operators' queries need. Their SQL stands in `shared.store.queries` alone."""

    @property
    def sealing(self) -> Sealing:
        """What opens that which the queries find sealed."""
        ...

    async def fetch(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        ...

    async def change(self, statements: Sequence[Statement]) -> list[int]:
        """Run the statements in one transaction; return how many rows each changed."""
        ...


class Store(EventStore, DeliveryStore, RetentionStore, TraceStore, SqlStore, Protocol):
    """A whole store, as `shared.store.open.open_store` gives it."""

    async def start(self) -> None:
        """Connect and check the schema.

        Raises:
            StoreUnavailableError: try again later.
            SchemaError: the schema is not this release's.
        """
        ...

    async def ping(self) -> None:
        """Return if the store answers a query."""
        ...

    async def close(self) -> None:
        """Finish what is in hand and disconnect."""
        ...
