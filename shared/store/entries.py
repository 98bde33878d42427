"""The bodies of all quarantine entries, opened some at a time: they may be many, and large."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from shared.store.lists import marks
from shared.store.port import SqlStore

PAGE = 200
"""Entries told of at a time."""

BYTES = 1_048_576
"""Bytes of bodies read at a time, a larger one by itself."""

_SIZES = """
SELECT id, length(body) FROM quarantine WHERE id > ? AND length(body) > 0 ORDER BY id LIMIT ?
"""

_BODIES = """
SELECT q.id, q.body, k.wrapped_by, k.key FROM quarantine q
LEFT JOIN quarantine_keys k ON k.entry_id = q.id WHERE q.id IN ({})
"""


async def opened_entries(store: SqlStore) -> AsyncIterator[dict[str, bytes]]:
    """Bodies by the entry's id, of every entry that has one, about `BYTES` of them at a time."""
    last = ""
    while page := await store.fetch(_SIZES, (last, PAGE)):
        last = page[-1][0]
        for ids in _shares(page):
            rows = await store.fetch(_BODIES.format(marks(ids)), ids)
            yield {one: store.sealing.entry(one, bytes(body), *key) for one, body, *key in rows}


def _shares(page: Sequence[tuple[Any, ...]]) -> Iterator[list[str]]:
    share: list[str] = []
    size = 0
    for one, length in page:
        if share and size + length > BYTES:
            yield share
            share, size = [], 0
        share.append(one)
        size += length
    yield share
