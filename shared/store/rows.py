"""What the store keeps, as values. Times are Unix milliseconds; ids of ours are UUIDv7 texts."""

from enum import StrEnum

from msgspec import Struct, field

from shared.domain.aggregates import Fact, State
from shared.domain.keys import AggregateKey, Position


class Label(StrEnum):
    """What became of an event that was received (domain.md, "How one arriving event is labelled").

    A duplicate is no event of its own: it is counted at the event that it repeats.
    """

    APPLIED = "applied"
    ERASED = "erased"
    DIVERGENT = "divergent"
    STALE = "stale"
    RECORDED = "recorded"


class DeliveryState(StrEnum):
    """The life of a delivery; README.md draws it."""

    PENDING = "pending"
    RETRYING = "retrying"
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"
    HELD = "held"
    CANCELLED = "cancelled"


class EndpointStatus(StrEnum):
    """Whether an endpoint gets callbacks. Disabled by its own 410, paused by an operator."""

    ENABLED = "enabled"
    PAUSED = "paused"
    DISABLED = "disabled"


class EventRef(Struct, frozen=True, order=True):
    """What the source calls an event."""

    partner_app_id: str
    event_id: str


class KnownEvent(Struct, frozen=True):
    """An event already stored under an `EventRef`; `variant` counts its contents from 0."""

    seq: int
    variant: int
    content: str


class NewEvent(Struct, frozen=True):
    """An event to store.

    Attributes:
        body: what the source sent, byte for byte; empty where it must not be kept.
        owners: numbers of the aggregates that it belongs to, by whose keys the body is sealed.
            The body of an event that belongs to none is not kept.
        tax_ids: whom the event names.
        tax_form: whether these are tax ids (`shared.domain.tax_ids.TaxForm`); empty for none.
    """

    seq: int
    ref: EventRef
    variant: int
    content: str
    type: str
    name: str
    time: int
    label: Label
    source: str
    batch_id: str
    received_at: int
    body: bytes
    traceparent: str = ""
    owners: tuple[int, ...] = ()
    tax_ids: tuple[str, ...] = ()
    tax_form: str = ""


class HistoryEntry(Struct, frozen=True):
    """One fact of one event about one aggregate."""

    aggregate_id: int
    event_seq: int
    fact: Fact


class Aggregate(Struct, frozen=True):
    """A projection. `id` is the store's own number for it; `version` counts its notices."""

    id: int
    key: AggregateKey
    version: int
    state: State


class NewTransition(Struct, frozen=True):
    """One version of an aggregate: what changed, and the ``data`` told of it as JSON.

    Attributes:
        event_seq: None where no event caused it (a quiet period passed, an operator acted).
        data: the members that are not personal.
        private: those that are, as an object of their own; empty where none is.
    """

    aggregate_id: int
    version: int
    type: str
    from_status: str
    to_status: str
    event_seq: int | None
    at: int
    data: bytes
    private: bytes = b""


class NewDelivery(Struct, frozen=True):
    """An outbox row: one transition for one endpoint. `held` ones wait for an operator."""

    id: str
    aggregate_id: int
    version: int
    endpoint: str
    type: str
    state: DeliveryState
    due_at: int
    traceparent: str = ""


class NewQuarantined(Struct, frozen=True):
    """Something that could not be understood, whole.

    A second arrival of the same content from the same source while the first is still open
    counts up `seen` instead of adding a row. An entry with an empty body names what was erased:
    it is only counted. `event_id` is what the receiver saw the source call it, empty where it saw
    none.
    """

    id: str
    reason: str
    detail: str
    source: str
    batch_id: str
    received_at: int
    content: str
    body: bytes
    traceparent: str = ""
    event_id: str = ""


class Why(StrEnum):
    """What an aggregate is erased for."""

    EVENT = "event"
    OPERATOR = "operator"
    CONSENTS_GONE = "consents_gone"
    RESTORED = "restored"


class Erased(Struct, frozen=True):
    """An aggregate that has become erased.

    Attributes:
        at: when, in Unix milliseconds.
        tax_ids: whom events name that are not stored any more.
    """

    aggregate_id: int
    key: AggregateKey
    why: Why
    at: int
    tax_ids: tuple[str, ...] = ()


class Changes(Struct):
    """All that one batch of events writes, in one transaction.

    Attributes:
        duplicates: seq of a stored event → how often it came again.
        replayed: ids of quarantine entries that are resolved by this very transaction.
        erased: aggregates of which the store gives up all that is personal, before it writes
            anything of the rest.
        ordered: product requests and the consents that they were ordered for.
        folded_at: Unix milliseconds when the events were folded; 0 for changes of other origin.
    """

    events: list[NewEvent] = field(default_factory=list)
    history: list[HistoryEntry] = field(default_factory=list)
    aggregates: list[Aggregate] = field(default_factory=list)
    transitions: list[NewTransition] = field(default_factory=list)
    deliveries: list[NewDelivery] = field(default_factory=list)
    quarantined: list[NewQuarantined] = field(default_factory=list)
    duplicates: dict[int, int] = field(default_factory=dict)
    replayed: list[str] = field(default_factory=list)
    erased: list[Erased] = field(default_factory=list)
    ordered: list[tuple[int, str]] = field(default_factory=list)
    folded_at: int = 0


class Wakeup(Struct, frozen=True):
    """A delivery that no message stands for: it wants one that arrives at `due_at`."""

    id: str
    endpoint: str
    due_at: int


class Standing(Struct, frozen=True):
    """How a delivery stands: what there is to know before it is attempted."""

    id: str
    endpoint: str
    state: DeliveryState
    due_at: int
    attempts: int
    round_start: int
    lease_until: int | None


class Delivery(Struct, frozen=True):
    """A delivery with all that an attempt needs; `data` is the transition's JSON."""

    id: str
    endpoint: str
    type: str
    state: DeliveryState
    due_at: int
    attempts: int
    transition_at: int
    data: bytes
    aggregate: AggregateKey
    version: int
    lease_until: int | None = None
    round_start: int = 0
    traceparent: str = ""


class AttemptRecord(Struct, frozen=True):
    """One finished attempt and the state that it leads the delivery to.

    Attributes:
        lease: the lease token under which the attempt was made; the write is void without it.
        number: counts from 1 over the whole life of the delivery, replays included.
        outcome: name of the outcome, such as ``succeeded`` or ``timeout``.
        status: HTTP status, None where no answer came.
        error: one line for the operator, never a body.
        answer: first bytes of a failing answer.
        state: the delivery's state from now on.
        due_at: when the next attempt is due; meaningful for ``retrying`` only.
    """

    delivery_id: str
    lease: str
    number: int
    at: int
    duration_ms: int
    outcome: str
    status: int | None
    error: str
    answer: bytes
    state: DeliveryState
    due_at: int


class EndpointRow(Struct, frozen=True):
    """What is known of an endpoint beyond its configuration."""

    id: str
    status: EndpointStatus
    reason: str
    changed_at: int


class FoldedEntry(Struct, frozen=True):
    """One entry of an aggregate's history, ready to fold."""

    at: Position
    fact: Fact
