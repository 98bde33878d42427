"""The judge of privacy: nothing personal lies about in clear, none of it outlives an erasure."""

from pathlib import Path

from shared.domain.consent import ConsentState
from shared.domain.keys import AggregateKind
from shared.domain.private import BLANK
from shared.store.port import Store
from shared.store.queries import Queries
from shared.store.seals import owner
from tests.chaos.simulated.source import MARK, mark_of
from tests.support import books

_OF_ERASED = "WHERE a.kind = 'consent' AND a.status = 'DELETED_BY_USER'"

_BLANK = BLANK[AggregateKind.CONSENT].hex()

LEFT: dict[str, str] = {
    "payloads": (
        "SELECT count(*) FROM payloads p JOIN history h ON h.event_seq = p.seq "
        f"JOIN aggregates a ON a.id = h.aggregate_id {_OF_ERASED}"
    ),
    "data keys": (
        f"SELECT count(*) FROM data_keys k JOIN aggregates a ON a.id = k.aggregate_id {_OF_ERASED}"
    ),
    "states": f"SELECT count(*) FROM aggregates a {_OF_ERASED} AND a.private IS NOT NULL",
    "facts": (
        f"SELECT count(*) FROM history h JOIN aggregates a ON a.id = h.aggregate_id {_OF_ERASED} "
        "AND h.private IS NOT NULL"
    ),
    "notices": (
        f"SELECT count(*) FROM transitions t JOIN aggregates a ON a.id = t.aggregate_id "
        f"{_OF_ERASED} AND t.private <> X'{_BLANK}'"
    ),
    "subjects": (
        f"SELECT count(*) FROM subjects s JOIN aggregates a ON a.id = s.aggregate_id {_OF_ERASED}"
    ),
}
"""What must be gone with a consent that its user deleted → a query that counts what is left."""


async def privacy_faults(
    store: Store, after: books.Books, folder: Path, made: list[tuple[bytes, bytes]]
) -> list[str]:
    """What can be read that may not be; `made` are the data keys, each with its owner."""
    faults = await _key_faults(store, folder, made)
    for what, query in LEFT.items():
        ((count,),) = await store.fetch(query)
        if count:
            faults.append(f"of erased consents {count} {what} are left")
    queries = Queries(store)
    erased = [
        mark_of(key.id)
        for key, state in after.states.items()
        if isinstance(state, ConsentState) and state.erased
    ]
    for entry in await queries.quarantine(status="", limit=1000):
        found = await queries.quarantined(entry.id)
        body = b"" if found is None else found[1]
        faults += [f"{entry.id} in quarantine tells {mark}" for mark in erased if mark in body]
    faults += _in_clear(folder)
    return faults


async def _key_faults(store: Store, folder: Path, made: list[tuple[bytes, bytes]]) -> list[str]:
    """Destroyed keys of which the database has left the bytes in its files."""
    rows = await store.fetch(f"SELECT a.id FROM aggregates a {_OF_ERASED}")
    gone = {owner(one) for (one,) in rows}
    return [
        f"{name} holds the destroyed key of {whose.decode()}"
        for name, content in _files(folder)
        for whose, key in made
        if whose in gone and key in content
    ]


def _in_clear(folder: Path) -> list[str]:
    """Files in which something personal can be read as it came."""
    return [
        f"{name} holds something personal in clear"
        for name, content in _files(folder)
        if MARK in content
    ]


def _files(folder: Path) -> list[tuple[str, bytes]]:
    """The files of store and spool, each with all its bytes."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [(path.name, path.read_bytes()) for path in paths]
