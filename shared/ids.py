"""Identifiers that we mint ourselves."""

import uuid_utils


def new_id() -> str:
    """A UUIDv7 (RFC 9562): unique, and ordered by the time of its making."""
    return str(uuid_utils.uuid7())


def lowest_id(at: int) -> str:
    """The id below which lie all that were made before `at`, in Unix milliseconds."""
    digits = f"{max(0, at):012x}"
    return f"{digits[:8]}-{digits[8:]}"
