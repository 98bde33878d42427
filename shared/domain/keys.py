"""What names an aggregate, and what orders its events."""

from enum import StrEnum

from msgspec import Struct


class AggregateKind(StrEnum):
    """The three things whose state we keep."""

    LINK = "link"
    CONSENT = "consent"
    PRODUCT_REQUEST = "product_request"


class AggregateKey(Struct, frozen=True, order=True):
    """One link, consent or product request of one partner application.

    The order of keys is the order in which workers lock them.
    """

    kind: str
    partner_app_id: str
    id: str


class Position(Struct, frozen=True, order=True, array_like=True):
    """Where an event stands among the events of its aggregate (domain.md, "Consent life cycle").

    Attributes:
        time: eventTime in Unix milliseconds.
        rank: breaks a tie of times; the graver change stands later, so that ties fail closed.
        event_id: breaks a tie of ranks.
        content: digest of the content, the last word.
    """

    time: int
    rank: int
    event_id: str
    content: str
