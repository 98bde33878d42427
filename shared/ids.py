"""Identifiers that we mint ourselves."""

import uuid_utils


def new_id() -> str:
    """A UUIDv7 (RFC 9562): unique, and ordered by the time of its making."""
    return str(uuid_utils.uuid7())
