"""The events worker as it would be without sealing: for `tests.benchmarks.sealing_cost` only.

Nothing is encrypted, no data key is made, stored or opened; everything else is as it is.
"""

import sys
from unittest import mock

from shared.sealing import SEALED, Box, Wrapped
from shared.store import seals
from worker import __main__ as worker

KEY = bytes(32)


class Open(Box):
    """Seals nothing."""

    def seal(self, text: bytes, _about: bytes) -> bytes:
        return SEALED + text

    def unseal(self, sealed: bytes, _about: bytes) -> bytes:
        return sealed[1:]


OPEN = Open(KEY)


def box(*_: object) -> Box:
    return OPEN


class Keyless:
    """Makes no key."""

    def make(self, _owner: bytes) -> tuple[Wrapped, Box]:
        return Wrapped("", b""), OPEN

    def open(self, _wrapped: Wrapped, _owner: bytes) -> Box:
        return OPEN


def keyless(_: object) -> Keyless:
    return Keyless()


def no_rows(_: object) -> list[tuple[int, str, bytes]]:
    return []


def run() -> int:
    """The worker's command line."""
    with (
        mock.patch.object(seals, "Vault", keyless),
        mock.patch.object(seals.Sealing, "box", box),
        mock.patch("shared.store.sqlite.events.key_values", no_rows),
        mock.patch("shared.store.postgres.events.key_values", no_rows),
    ):
        return worker.run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
