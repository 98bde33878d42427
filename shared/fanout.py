"""From a change of state to what is told of it, and to whom."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import count

from msgspec.structs import replace

from shared.config import EndpointConfig
from shared.domain import notices
from shared.domain.aggregates import State, status_of
from shared.domain.private import split_data
from shared.errors import ConfigError
from shared.ids import new_id
from shared.store.rows import Aggregate, Changes, DeliveryState, NewDelivery, NewTransition


class Subscriptions:
    """The endpoints by notice type; a pattern may hold ``*``, as in ``consent.*``."""

    def __init__(self, endpoints: Sequence[EndpointConfig]) -> None:
        """Raises `ConfigError` for a pattern that no type fits: it would be silent for ever."""
        for endpoint in endpoints:
            for pattern in endpoint.types:
                if not any(fnmatchcase(name, pattern) for name in notices.TYPES):
                    raise ConfigError(
                        f"endpoint {endpoint.id}: types: nothing is of type {pattern!r}; "
                        f"types are {', '.join(notices.TYPES)}"
                    )
        self._by_type = {
            name: tuple(
                endpoint.id
                for endpoint in endpoints
                if any(fnmatchcase(name, pattern) for pattern in endpoint.types)
            )
            for name in notices.TYPES
        }

    def of(self, notice_type: str) -> tuple[str, ...]:
        """Ids of the endpoints that want this type, in configured order."""
        return self._by_type[notice_type]


class Announcer:
    """Turns changes of state into versions, and each version into its deliveries."""

    def __init__(self, subscriptions: Subscriptions, *, now: int) -> None:
        """`now` in Unix milliseconds becomes the time of every version and delivery."""
        self._subscriptions = subscriptions
        self._now = now

    def announce(
        self,
        current: Aggregate,
        after: State,
        changes: Changes,
        *,
        event_seq: int | None = None,
        traceparent: str = "",
    ) -> Aggregate:
        """Add one version per notice to `changes`; return the aggregate as it stands after.

        `event_seq` is None for a change that no event caused.
        """
        previous = status_of(current.state)
        status = status_of(after)
        version = current.version
        for version, notice in zip(
            count(current.version + 1), notices.notices(current.state, after), strict=False
        ):
            told = notices.data(current.key, version=version, previous=previous, state=after)
            data, private = split_data({**told, **notice.extra})
            changes.transitions.append(
                NewTransition(
                    aggregate_id=current.id,
                    version=version,
                    type=notice.type,
                    from_status=previous,
                    to_status=status,
                    event_seq=event_seq,
                    at=self._now,
                    data=data,
                    private=private,
                )
            )
            changes.deliveries += self._deliveries(current.id, version, notice.type, traceparent)
            previous = status
        return replace(current, version=version, state=after)

    def _deliveries(
        self, aggregate_id: int, version: int, notice_type: str, traceparent: str
    ) -> list[NewDelivery]:
        return [
            NewDelivery(
                id=new_id(),
                aggregate_id=aggregate_id,
                version=version,
                endpoint=endpoint,
                type=notice_type,
                state=DeliveryState.PENDING,
                due_at=self._now,
                traceparent=traceparent,
            )
            for endpoint in self._subscriptions.of(notice_type)
        ]
