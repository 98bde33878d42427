"""What the store seals and opens: states, facts, notices, payloads, answers, quarantine bodies.

Each aggregate has one data key, made when something of it is sealed first. What cannot be opened
any more, because its key was destroyed, reads as if it had been erased.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import Counter

from shared.config import SealingConfig
from shared.domain.aggregates import Fact, State
from shared.domain.private import join_fact, join_state, split_fact, split_state
from shared.errors import SealBrokenError
from shared.logs import get_logger
from shared.sealing import (
    SEALED,
    Box,
    KeyRing,
    Sealer,
    Vault,
    Wrapped,
    content_key,
    joint,
    read_key,
    token,
)

log = get_logger(__name__)

UNOPENED = Counter(
    "correio_unopened_total",
    "Things sealed that did not open when they were read: changed, or their key is gone.",
)

INDEX_KEY: Final = "index"
"""Name of the key that makes tax ids searchable, where the store keeps one of its own."""

NO_KEYS: Final = "the store's keys are missing: restore them, see deploy/README.md, Backup"

_REMEMBERED = 500_000


class Sealing:
    """The keys of one store, as far as its process knows them."""

    def __init__(self, config: SealingConfig) -> None:
        """Raise `ConfigError` if a key has not the form of one."""
        self.ring = KeyRing.read(config.keys.reveal())
        self.sealer: Sealer = Vault(self.ring)
        configured = config.index_key.reveal()
        self.index_key = read_key(configured, "sealing.index_key") if configured else b""
        self._indexed: set[int] = set()

    def token(self, tax_id: str) -> str:
        """What stands for a tax id in the index of this store."""
        return token(tax_id, self.index_key)

    @property
    def content_key(self) -> bytes:
        """The key for digests of contents; see `shared.domain.events.content_digest`."""
        return content_key(self.index_key)

    def box(self, aggregate_id: int, wrapped_by: str | None, key: bytes | None) -> Box | None:
        """The box of an aggregate from the columns of its data key; None if it has none."""
        if wrapped_by is None or key is None:
            return None
        return self.sealer.open(Wrapped(wrapped_by, key), owner(aggregate_id))

    def entry(self, entry_id: str, body: bytes, wrapped_by: str | None, key: bytes | None) -> bytes:
        """The body of a quarantine entry; a former release stored it in clear, without a key."""
        if wrapped_by is None or key is None:
            return body
        box = self.sealer.open(Wrapped(wrapped_by, key), entry_owner(entry_id))
        return opened(box, body, about_entry(entry_id))

    def is_indexed(self, aggregate_id: int, tax_id: str) -> bool:
        """Whether this process has indexed the tax id for the aggregate before."""
        return hash((aggregate_id, tax_id)) in self._indexed

    def remember(self, indexed: Iterable[tuple[int, str]]) -> None:
        """Note what has been indexed; nothing of the tax ids themselves is kept."""
        if len(self._indexed) > _REMEMBERED:
            self._indexed.clear()
        self._indexed.update(map(hash, indexed))


class Keys:
    """The data keys that one transaction works with: those it found, and those it made."""

    def __init__(self, sealing: Sealing) -> None:
        self._sealing = sealing
        self._boxes: dict[int, Box] = {}
        self.made: dict[int, Wrapped] = {}

    def find(self, aggregate_id: int, wrapped_by: str | None, key: bytes | None) -> Box | None:
        """Take note of an aggregate's key from its columns."""
        box = self._sealing.box(aggregate_id, wrapped_by, key)
        if box is not None:
            self._boxes[aggregate_id] = box
        return box

    def of(self, aggregate_id: int) -> Box | None:
        """The key of an aggregate, if it has one."""
        return self._boxes.get(aggregate_id)

    def need(self, aggregate_id: int) -> Box:
        """The key of an aggregate, made now if it has none yet."""
        box = self._boxes.get(aggregate_id)
        if box is None:
            wrapped, box = self._sealing.sealer.make(owner(aggregate_id))
            self._boxes[aggregate_id] = box
            self.made[aggregate_id] = wrapped
        return box

    def payload(self, seq: int, body: bytes, owners: Sequence[int]) -> bytes:
        """An event's own bytes, sealed by the keys of all that it belongs to."""
        if len(owners) == 1:
            return self.need(owners[0]).seal(body, about_payload(seq))
        return joint([self.need(one) for one in sorted(owners)]).seal(body, about_payload(seq))

    def state(self, aggregate_id: int, state: State) -> tuple[bytes, bytes | None]:
        """A state as it is stored: its document, and its personal part."""
        document, part = split_state(state)
        return document, self.seal(aggregate_id, part, about_state(aggregate_id))

    def fact(self, aggregate_id: int, seq: int, fact: Fact) -> tuple[bytes, bytes | None]:
        """A fact as it is stored: its document, and its personal part."""
        document, part = split_fact(fact)
        return document, self.seal(aggregate_id, part, about_fact(aggregate_id, seq))

    def seal(self, aggregate_id: int, part: bytes, about: bytes) -> bytes | None:
        """A personal part, sealed; None where nothing is personal."""
        return self.need(aggregate_id).seal(part, about) if part else None


def opened(box: Box | None, stored: bytes | None, about: bytes) -> bytes:
    """What was stored, opened; empty for nothing, and for what cannot be opened any more.

    What a former release stored lies in clear and is returned as it is.
    """
    if not stored or not stored.startswith(SEALED):
        return stored or b""
    if box is not None:
        try:
            return box.unseal(stored, about)
        except SealBrokenError as error:
            log.error("sealed.broken", error=str(error))  # noqa: TRY400 - a trace adds nothing
    UNOPENED.inc()
    return b""


def state_of(box: Box | None, aggregate_id: int, document: bytes, private: bytes | None) -> State:
    """The inverse of `Keys.state`."""
    return join_state(document, opened(box, private, about_state(aggregate_id)))


def fact_of(
    box: Box | None, aggregate_id: int, seq: int, document: bytes, private: bytes | None
) -> Fact:
    """The inverse of `Keys.fact`."""
    return join_fact(document, opened(box, private, about_fact(aggregate_id, seq)))


def payload_of(boxes: Sequence[Box], seq: int, body: bytes) -> bytes:
    """The inverse of `Keys.payload`, `boxes` being those of the owners by ascending number."""
    return opened(joint(boxes) if boxes else None, body, about_payload(seq))


def owner(aggregate_id: int) -> bytes:
    """Whose a data key is."""
    return b"aggregate:%d" % aggregate_id


def entry_owner(entry_id: str) -> bytes:
    """Whose the data key of a quarantine entry is."""
    return b"quarantine:" + entry_id.encode()


def about_state(aggregate_id: int) -> bytes:
    """Names the personal part of a state."""
    return b"state:%d" % aggregate_id


def about_fact(aggregate_id: int, seq: int) -> bytes:
    """Names the personal part of a fact."""
    return b"fact:%d:%d" % (aggregate_id, seq)


def about_data(aggregate_id: int, version: int) -> bytes:
    """Names the personal part of a notice's data."""
    return b"data:%d:%d" % (aggregate_id, version)


def about_payload(seq: int) -> bytes:
    """Names the payload of an event."""
    return b"payload:%d" % seq


def about_answer(delivery_id: str) -> bytes:
    """Names an endpoint's answer."""
    return b"answer:" + delivery_id.encode()


def about_entry(entry_id: str) -> bytes:
    """Names the body of a quarantine entry."""
    return b"entry:" + entry_id.encode()
