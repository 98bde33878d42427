"""Sealing at rest: authenticated encryption under a data key of each aggregate.

Envelope style. A data key seals what is personal of one link, consent or product request; it rests
beside the data in a table of its own, wrapped by a key of the configuration. Wrapping a key anew
rewrites no data, and destroying a data key erases what it sealed, in every copy of the data.

Without a configured key the data keys rest unwrapped: erasing by destroying them works all the
same, only whoever steals the whole store can read it.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from shared.errors import ConfigError, SealBrokenError, SealingKeyError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
UNWRAPPED: Final = ""
"""Id of the key that wraps nothing."""
SEAL_BYTES: Final = 1 + NONCE_BYTES + 16
"""By so much sealing makes a text longer."""
SEALED: Final = b"\x01"
"""First byte of everything sealed. What was stored in clear is JSON and never begins so."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN_BYTES = 16
_CACHED = 5_000
"""Data keys kept opened: each takes 2.6 kB."""


class _Random:
    """Random bytes, drawn from the system by the thousand: one by one costs more than sealing."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool: Iterator[bytes] = iter(())
        os.register_at_fork(after_in_child=self._forget)

    def next(self) -> bytes:
        """So many bytes, which nobody else gets."""
        one = next(self._pool, None)
        if one is not None:
            return one
        drawn = os.urandom(1_000 * self._size)
        pool = iter([drawn[at : at + self._size] for at in range(0, len(drawn), self._size)])
        first = next(pool)
        self._pool = pool
        return first

    def _forget(self) -> None:
        """A child process must not use what its parent will."""
        self._pool = iter(())


_nonces = _Random(NONCE_BYTES)
_keys = _Random(KEY_BYTES)


class Wrapped(Struct, frozen=True):
    """A data key as it rests: wrapped by the configured key of this id."""

    by: str
    key: bytes


class Box:
    """What one data key seals and opens."""

    __slots__ = ("_cipher", "key")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._cipher = AESGCM(key)

    def seal(self, text: bytes, about: bytes) -> bytes:
        """Seal `text`; it opens only for the same `about`, which names what it is and whose."""
        nonce = _nonces.next()
        return SEALED + nonce + self._cipher.encrypt(nonce, text, about)

    def unseal(self, sealed: bytes, about: bytes) -> bytes:
        """The inverse of `seal`.

        Raises:
            SealBrokenError: it was sealed by another key, for something else, or was changed.
        """
        nonce, rest = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, rest, about)
        except (InvalidTag, ValueError) as error:
            raise SealBrokenError(f"{about.decode()} does not open by its key") from error


class KeyRing:
    """The configured keys: the first wraps, all unwrap."""

    def __init__(self, keys: Sequence[tuple[str, bytes]] = ()) -> None:
        self._ciphers = {name: AESGCM(key) for name, key in keys}
        self.first = keys[0][0] if keys else UNWRAPPED

    @classmethod
    def read(cls, text: str) -> "KeyRing":
        """Read ``id:base64``, several parted by commas or white space.

        Raises:
            ConfigError: it has another form, or an id stands twice.
        """
        keys: list[tuple[str, bytes]] = []
        for part in re.split(r"[,\s]+", text.strip()) if text.strip() else ():
            name, _, encoded = part.partition(":")
            if not _ID.fullmatch(name) or name in dict(keys):
                raise ConfigError("sealing.keys: each key is written id:base64, each id once")
            keys.append((name, read_key(encoded, "sealing.keys")))
        return cls(keys)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the keys, the first first; empty without any."""
        return tuple(self._ciphers)

    def wrap(self, key: bytes, owner: bytes) -> Wrapped:
        """Wrap a data key for its owner by the first key."""
        if self.first == UNWRAPPED:
            return Wrapped(UNWRAPPED, key)
        nonce = _nonces.next()
        return Wrapped(self.first, nonce + self._ciphers[self.first].encrypt(nonce, key, owner))

    def unwrap(self, wrapped: Wrapped, owner: bytes) -> bytes:
        """The data key itself.

        Raises:
            SealingKeyError: the key that wrapped it is not configured, or is another one.
        """
        if wrapped.by == UNWRAPPED:
            return wrapped.key
        cipher = self._ciphers.get(wrapped.by)
        if cipher is None:
            raise SealingKeyError(f"sealing.keys lacks the key {wrapped.by!r}, which is in use")
        nonce, rest = wrapped.key[:NONCE_BYTES], wrapped.key[NONCE_BYTES:]
        try:
            return cipher.decrypt(nonce, rest, owner)
        except (InvalidTag, ValueError):
            raise SealingKeyError(
                f"sealing.keys: the key {wrapped.by!r} is not the one that was in use"
            ) from None


class Sealer(Protocol):
    """What makes and opens data keys. `owner` names whose key it is."""

    def make(self, owner: bytes) -> tuple[Wrapped, Box]:
        """A new data key."""
        ...

    def open(self, wrapped: Wrapped, owner: bytes) -> Box:
        """The data key that was wrapped; raises `SealingKeyError`."""
        ...


class Vault:
    """Makes and opens data keys, and keeps those opened lately at hand."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring
        self._opened: OrderedDict[tuple[bytes, bytes], Box] = OrderedDict()

    def make(self, owner: bytes) -> tuple[Wrapped, Box]:
        """See `Sealer`."""
        box = Box(_keys.next())
        wrapped = self.ring.wrap(box.key, owner)
        self._keep((wrapped.key, owner), box)
        return wrapped, box

    def open(self, wrapped: Wrapped, owner: bytes) -> Box:
        """See `Sealer`."""
        place = (wrapped.key, owner)
        box = self._opened.get(place)
        if box is None:
            box = Box(self.ring.unwrap(wrapped, owner))
            self._keep(place, box)
        return box

    def _keep(self, place: tuple[bytes, bytes], box: Box) -> None:
        if len(self._opened) >= _CACHED:  # the oldest goes
            self._opened.popitem(last=False)
        self._opened[place] = box


def joint(boxes: Sequence[Box]) -> Box:
    """One box for what several own together: it opens only while all their keys are there."""
    if len(boxes) == 1:
        return boxes[0]
    digest = hashlib.blake2b(digest_size=KEY_BYTES, person=b"correio joint")
    for box in boxes:
        digest.update(box.key)
    return Box(digest.digest())


def token(tax_id: str, index_key: bytes) -> str:
    """What stands for a tax id in the index: nobody without the key can tell it from another."""
    digest = hmac.digest(index_key, tax_id.encode(), "sha256")
    return base64.urlsafe_b64encode(digest[:_TOKEN_BYTES]).rstrip(b"=").decode()


def content_key(index_key: bytes) -> bytes:
    """What makes the digests of contents, which outlive what they are digests of."""
    return hmac.digest(index_key, b"content", "sha256")


def read_key(encoded: str, field: str) -> bytes:
    """A key of 32 bytes from its base64.

    Raises:
        ConfigError: it has another form or length; the message names `field` and never the key.
    """
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{field}: a key is {KEY_BYTES} random bytes in base64")
    return key


def new_key() -> str:
    """A random key in the form in which it is configured."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()
