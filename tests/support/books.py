"""Reading the whole store from outside, with plain SQL, to judge what the processes did."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import apsw
import msgspec
import orjson
import psycopg
from msgspec import Struct

from shared.clock import SystemClock
from shared.config import SealingConfig, Secret, StoreConfig
from shared.domain import aggregates
from shared.domain.aggregates import State
from shared.domain.consent import ConsentState
from shared.domain.events import content_digest
from shared.domain.keys import AggregateKey, AggregateKind, Position
from shared.domain.link import LinkState
from shared.domain.private import join_data
from shared.domain.product_request import ProductRequestState
from shared.sealing import content_key
from shared.store.audit import audit
from shared.store.locate import sqlite_path
from shared.store.open import open_store
from shared.store.seals import (
    INDEX_KEY,
    Sealing,
    about_answer,
    about_data,
    fact_of,
    opened,
    payload_of,
    state_of,
)
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
    digest_key: bytes

    @property
    def statuses(self) -> dict[tuple[str, str], str]:
        """(kind, id) → status."""
        return {(k.kind, k.id): aggregates.status_of(s) for k, s in self.states.items()}


_KEYS = "SELECT aggregate_id, wrapped_by, key FROM data_keys"


def payloads(url: str, *, sealed_by: SealingConfig | None = None) -> dict[int, bytes]:
    """Every payload that is kept, opened, by the number of its event."""
    sealing = Sealing(sealed_by or SealingConfig())
    boxes = {one[0]: sealing.box(*one) for one in fetch(url, _KEYS)}
    owners = defaultdict(list)
    for seq, number, kind in fetch(
        url,
        "SELECT h.event_seq, a.id, a.kind FROM history h JOIN aggregates a "
        "ON a.id = h.aggregate_id ORDER BY a.id",
    ):
        owners[seq].append((number, kind))
    found = {}
    for seq, body in fetch(url, "SELECT seq, body FROM payloads"):
        mine = [n for n, kind in owners[seq] if kind != "link"] or [n for n, _ in owners[seq]]
        held = [boxes[one] for one in mine]
        assert None not in held
        found[seq] = payload_of(held, seq, body)
    return found


def answers(url: str) -> dict[tuple[str, int], bytes]:
    """Every answer that is kept, opened, by delivery and number of the attempt."""
    sealing = Sealing(SealingConfig())
    return {
        (delivery, number): opened(sealing.box(*key), private, about_answer(delivery))
        for delivery, number, private, *key in fetch(
            url,
            "SELECT t.delivery_id, t.number, t.private, k.aggregate_id, k.wrapped_by, k.key "
            "FROM attempts t JOIN deliveries d ON d.id = t.delivery_id "
            "JOIN data_keys k ON k.aggregate_id = d.aggregate_id WHERE t.private IS NOT NULL",
        )
    }


def quarantine_bodies(url: str) -> list[bytes]:
    """The bodies of all quarantine entries, opened, in the order of their ids."""
    sealing = Sealing(SealingConfig())
    return [
        sealing.entry(one, bytes(body), *key)
        for one, body, *key in fetch(
            url,
            "SELECT q.id, q.body, k.wrapped_by, k.key FROM quarantine q "
            "LEFT JOIN quarantine_keys k ON k.entry_id = q.id ORDER BY q.id",
        )
    ]


def read(url: str, *, sealed_by: SealingConfig | None = None) -> Books:
    """Read everything; `sealed_by` has the keys that were configured."""
    numbers: dict[int, AggregateKey] = {}
    states, versions = {}, {}
    sealing = Sealing(sealed_by or SealingConfig())
    boxes = {one[0]: sealing.box(*one) for one in fetch(url, _KEYS)}
    for number, kind, app, key, version, state, private in fetch(
        url, "SELECT id, kind, partner_app_id, key, version, state, private FROM aggregates"
    ):
        numbers[number] = named = AggregateKey(kind, app, key)
        states[named] = state_of(boxes.get(number), number, bytes(state), private)
        versions[named] = version
    transitions = defaultdict(list)
    for number, version, kind, before, after, data, private in fetch(
        url,
        "SELECT aggregate_id, version, type, from_status, to_status, data, private "
        "FROM transitions ORDER BY aggregate_id, version",
    ):
        part = opened(boxes.get(number), private, about_data(number, version))
        transitions[numbers[number]].append({
            "version": version, "type": kind, "from": before, "to": after,
            "data": msgspec.json.decode(join_data(bytes(data), part)),
        })  # fmt: skip
    histories = defaultdict(list)
    for number, time, event_id, content, seq, document, private in fetch(
        url,
        "SELECT h.aggregate_id, e.time, e.event_id, e.content, h.event_seq, h.fact, h.private "
        "FROM history h JOIN events e ON e.seq = h.event_seq",
    ):
        fact = fact_of(boxes.get(number), number, seq, bytes(document), private)
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
        content_key(sealing.index_key or _index_key(url)),
    )


def _index_key(url: str) -> bytes:
    return bytes(fetch(url, f"SELECT key FROM store_keys WHERE name = '{INDEX_KEY}'")[0][0])


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
    about: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for one in unique.values():
        for kind, name in _spoken_of(one["payload"]):
            about[kind, one["partnerAppId"], name].append(one)
    for key, state in books.states.items():
        mine = about[key.kind, key.partner_app_id, key.id]
        match state:
            case ConsentState():
                _same_consent(key, state, mine, books.digest_key)
            case LinkState():
                wanted = model.link(mine, key.id)
                assert wanted == {"status": state.status, "consents": list(state.consents)}, key
            case ProductRequestState():
                expected = model.product_request(mine)
                assert expected["status"] == state.status, key
                assert expected["products"] == {
                    name: (one.status, one.successes, one.failures)
                    for name, one in state.products.items()
                }, key


def _spoken_of(payload: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The aggregates that an event speaks of: kind and id of each."""
    where = payload.get("requestBody", payload)
    if "linkId" in where:
        yield AggregateKind.LINK, where["linkId"]
    if "consents" in payload:
        yield AggregateKind.CONSENT, payload["consents"]["consentId"]
    if "requestId" in payload:
        yield AggregateKind.PRODUCT_REQUEST, payload["requestId"]


def _same_consent(
    key: AggregateKey, state: ConsentState, mine: list[dict[str, Any]], digest_key: bytes
) -> None:
    expected = model.consent((one, content_digest(orjson.dumps(one), digest_key)) for one in mine)
    assert (state.status, state.conflict) == (expected["status"], expected["conflict"]), key
    assert list(state.permissions_granted) == expected["permissionsGranted"], key
    assert state.link_id == expected["linkId"], key


def labelled_once(url: str) -> bool:
    """Whether every event of the store carries one of the labels there are."""
    known = {"applied", "divergent", "stale", "recorded", "erased"}
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
