"""Reading the whole store from outside, with plain SQL, to judge what the processes did."""

from collections import defaultdict
from typing import Any

import apsw
import msgspec
import orjson
import psycopg
from msgspec import Struct

from shared.clock import SystemClock
from shared.config import Secret, StoreConfig
from shared.domain import aggregates
from shared.domain.aggregates import State, decode_fact, decode_state
from shared.domain.consent import ConsentState
from shared.domain.events import content_digest
from shared.domain.keys import AggregateKey, Position
from shared.domain.link import LinkState
from shared.domain.product_request import ProductRequestState
from shared.store.audit import audit
from shared.store.locate import sqlite_path
from shared.store.open import open_store
from tests.support import model


def fetch(url: str, query: str) -> list[tuple[Any, ...]]:
    """All rows of a query that both databases understand."""
    path = sqlite_path(Secret(url))
    if path is None:
        with psycopg.connect(url) as connection:
            return connection.execute(query).fetchall()
    database = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        database.set_busy_timeout(5000)
        return database.execute(query).fetchall()
    finally:
        database.close()


class Books(Struct):
    """What a store holds, keyed by what the domain calls it."""

    states: dict[AggregateKey, State]
    versions: dict[AggregateKey, int]
    transitions: dict[AggregateKey, list[dict[str, Any]]]
    histories: dict[AggregateKey, list[tuple[Position, aggregates.Fact]]]
    labels: dict[str, int]
    duplicates: int
    quarantined: dict[str, int]
    deliveries: dict[str, int]

    @property
    def statuses(self) -> dict[tuple[str, str], str]:
        """(kind, id) → status."""
        return {(k.kind, k.id): aggregates.status_of(s) for k, s in self.states.items()}


def read(url: str) -> Books:
    """Read everything."""
    numbers: dict[int, AggregateKey] = {}
    states, versions = {}, {}
    for number, kind, app, key, version, state in fetch(
        url, "SELECT id, kind, partner_app_id, key, version, state FROM aggregates"
    ):
        numbers[number] = named = AggregateKey(kind, app, key)
        states[named], versions[named] = decode_state(bytes(state)), version
    transitions = defaultdict(list)
    for number, version, kind, before, after, data in fetch(
        url,
        "SELECT aggregate_id, version, type, from_status, to_status, data FROM transitions "
        "ORDER BY aggregate_id, version",
    ):
        transitions[numbers[number]].append({
            "version": version, "type": kind, "from": before, "to": after,
            "data": msgspec.json.decode(bytes(data)),
        })  # fmt: skip
    histories = defaultdict(list)
    for number, time, event_id, content, document in fetch(
        url,
        "SELECT h.aggregate_id, e.time, e.event_id, e.content, h.fact FROM history h "
        "JOIN events e ON e.seq = h.event_seq",
    ):
        fact = decode_fact(bytes(document))
        at = Position(time, aggregates.rank_of(fact), event_id, content)
        histories[numbers[number]].append((at, fact))
    return Books(
        states,
        versions,
        dict(transitions),
        dict(histories),
        dict(fetch(url, "SELECT label, count(*) FROM events GROUP BY label")),
        int(fetch(url, "SELECT coalesce(sum(duplicates), 0) FROM events")[0][0]),
        dict(fetch(url, "SELECT reason, count(*) FROM quarantine GROUP BY reason")),
        dict(fetch(url, "SELECT state, count(*) FROM deliveries GROUP BY state")),
    )


def check(books: Books) -> None:
    """Assert what holds at any moment: folds, versions without a gap, the last word said."""
    for key, state in books.states.items():
        history = books.histories.get(key, [])
        assert aggregates.refold(state, history) == state, key
        written = books.transitions.get(key, [])
        assert [one["version"] for one in written] == list(range(1, books.versions[key] + 1)), key
        if written:
            final = written[-1]["data"]
            assert final["status"] == aggregates.status_of(state), key
            for member, value in told(state).items():
                assert final[member] == value, (key, member)


def told(state: State) -> dict[str, Any]:
    """The members of a notice that must be final in the last one."""
    match state:
        case aggregates.ConsentState():
            return {
                "conflict": state.conflict,
                "permissionsGranted": list(state.permissions_granted),
                "expireAt": state.expire_at,
                "linkId": state.link_id or None,
            }
        case aggregates.ProductRequestState():
            return {"products": {n: str(o.status) for n, o in state.products.items()}}
        case _:
            return {}


def compare_with_model(books: Books, made: list[dict[str, Any]]) -> None:
    """Assert that every state is as the model has it, `made` being all events delivered."""
    unique = {orjson.dumps(one): one for one in made}
    for key, state in books.states.items():
        mine = [one for one in unique.values() if one["partnerAppId"] == key.partner_app_id]
        match state:
            case ConsentState():
                _same_consent(key, state, mine)
            case LinkState():
                wanted = model.link(mine, key.id)
                assert wanted == {"status": state.status, "consents": list(state.consents)}, key
            case ProductRequestState():
                about = [one for one in mine if one["payload"].get("requestId") == key.id]
                expected = model.product_request(about)
                assert expected["status"] == state.status, key
                assert expected["products"] == {
                    name: (one.status, one.successes, one.failures)
                    for name, one in state.products.items()
                }, key


def _same_consent(key: AggregateKey, state: ConsentState, mine: list[dict[str, Any]]) -> None:
    expected = model.consent(
        (one, content_digest(orjson.dumps(one)))
        for one in mine
        if one["payload"].get("consents", {}).get("consentId") == key.id
    )
    assert (state.status, state.conflict) == (expected["status"], expected["conflict"]), key
    assert list(state.permissions_granted) == expected["permissionsGranted"], key
    assert state.link_id == expected["linkId"], key


def labelled_once(url: str) -> bool:
    """Whether every event of the store carries one of the labels there are."""
    known = {"applied", "divergent", "stale", "recorded"}
    return {label for (label,) in fetch(url, "SELECT DISTINCT label FROM events")} <= known


async def audit_faults(url: str) -> list[str]:
    """The checks of ``correio reconcile`` that do not hold."""
    store = open_store(StoreConfig(url=Secret(url)))
    try:
        await store.start()
        checks = await audit(store, now=SystemClock().now(), late_after=1e9)
    finally:
        await store.close()
    return [one.name for one in checks if not one.ok]
