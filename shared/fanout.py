"""Which endpoints want to hear of a notice."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from shared.config import EndpointConfig
from shared.domain.notices import TYPES


class Subscriptions:
    """The endpoints by notice type; a pattern may hold ``*``, as in ``consent.*``."""

    def __init__(self, endpoints: Sequence[EndpointConfig]) -> None:
        self._by_type = {
            name: tuple(
                endpoint.id
                for endpoint in endpoints
                if any(fnmatchcase(name, pattern) for pattern in endpoint.types)
            )
            for name in TYPES
        }

    def of(self, notice_type: str) -> tuple[str, ...]:
        """Ids of the endpoints that want this type, in configured order."""
        return self._by_type[notice_type]
