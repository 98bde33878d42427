"""The judge of privacy: nothing personal lies about in clear, none of it outlives an erasure."""

from pathlib import Path

from shared.domain.consent import ConsentState
from shared.store.port import Store
from shared.store.queries import Queries
from shared.store.seals import owner
from tests.support import books
from tests.support.privacy import MARK, OF_ERASED, mark_of, remains


async def privacy_faults(
    store: Store, url: str, after: books.Books, folder: Path, made: list[tuple[bytes, bytes]]
) -> list[str]:
    """What can be read that may not be; `made` are the data keys, each with its owner."""
    faults = await _key_faults(store, folder, made)
    for what, query in remains(url).items():
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
    rows = await store.fetch(f"SELECT a.id FROM aggregates a {OF_ERASED}")
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
