"""What of the people behind the events may not be found: in clear, or at all after an erasure."""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from shared.config import Secret
from shared.domain.keys import AggregateKind
from shared.domain.private import BLANK, MEMBERS
from shared.store.locate import sqlite_path

MARK = b"Zdenka"
"""Part of all that is personal."""

OF_ERASED = "WHERE a.kind = 'consent' AND a.status = 'DELETED_BY_USER'"


def mark_of(consent: str) -> bytes:
    """Part of all that is personal of one consent."""
    return b"%b of %b" % (MARK, consent.encode())


def remains(url: str) -> dict[str, str]:
    """What must be gone with a consent that its user deleted → a query that counts what is left."""
    blank = BLANK[AggregateKind.CONSENT].hex()
    blank = f"'\\x{blank}'" if sqlite_path(Secret(url)) is None else f"X'{blank}'"
    owned = f"ON a.id = {{}}.aggregate_id {OF_ERASED}"
    return {
        "payloads": "SELECT count(*) FROM payloads p JOIN history h ON h.event_seq = p.seq "
        f"JOIN aggregates a {owned.format('h')}",
        "data keys": f"SELECT count(*) FROM data_keys k JOIN aggregates a {owned.format('k')}",
        "states": f"SELECT count(*) FROM aggregates a {OF_ERASED} AND a.private IS NOT NULL",
        "facts": f"SELECT count(*) FROM history h JOIN aggregates a {owned.format('h')} "
        "AND h.private IS NOT NULL",
        "notices": f"SELECT count(*) FROM transitions t JOIN aggregates a {owned.format('t')} "
        f"AND t.private <> {blank}",
        "subjects": f"SELECT count(*) FROM subjects s JOIN aggregates a {owned.format('s')}",
    }


def impersonal(body: bytes) -> bytes:
    """A callback's body without what an erasure between two attempts takes away."""
    told: dict[str, Any] = orjson.loads(body)
    for member in MEMBERS:
        told["data"].pop(member, None)
    return orjson.dumps(told, option=orjson.OPT_SORT_KEYS)


def in_clear(folder: Path) -> list[str]:
    """Files in which something personal can be read as it came."""
    return [f"{path.name} holds something personal in clear" for path in _marked(folder)]


def _marked(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as found:
                if found.find(MARK) >= 0:
                    yield path
        except (OSError, ValueError):  # a folder, a socket, an empty file, one that has gone
            continue
