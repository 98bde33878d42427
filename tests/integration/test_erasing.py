"""Who asked for deletion is erased from everything, and stays erased whatever comes later."""

from collections.abc import Sequence
from typing import Any

import pytest

from shared.config import Config, EndpointConfig, Secret, SourceConfig
from shared.domain.keys import AggregateKey
from shared.eraser import HELD, SECOND_LOOK, TASK, Eraser
from shared.errors import SealingKeyError, StoreUnavailableError
from shared.store import entries
from shared.store.audit import audit
from shared.store.lease import Lease
from shared.store.port import Store
from shared.store.queries import Queries
from shared.store.rows import AttemptRecord, DeliveryState, Why
from tests.support import books
from tests.support import events as ev
from tests.support.clock import ManualClock
from worker.events.apply import Applier
from worker.events.arrivals import Arrival

CONFIG = Config(
    source=(SourceConfig(name="klavi", require_signature=False),),
    endpoint=(EndpointConfig(id="crm", url="http://127.0.0.1/", secrets=(Secret("whsec_x"),)),),
)
NOW = ev.EPOCH + 10_000_000
MARIA, JOAO = "11122233344", "55566677788"
WORDS = ("MARIA-INFO", "MARIA-PERMISSION", "MARIA-TRACK", "MARIA-REASON", MARIA)


def about(who: str, name: str, at: int, **payload: Any) -> dict[str, Any]:
    """An event of somebody, whose consent, link and request carry the name."""
    ids: dict[str, Any] = {"linkId": f"{who}-link", "personalTaxId": MARIA}
    if name.startswith("consent"):
        ids |= {"consentId": f"{who}-consent", "permissionsGranted": ["MARIA-PERMISSION"],
                "externalTrackId": "MARIA-TRACK"}  # fmt: skip
    elif name.startswith("product"):
        ids |= {"requestId": f"{who}-request"}
        if name == "product_request_received":
            ids |= {"consentIds": [f"{who}-consent"], "taxId": MARIA}
    if name == "product_generated_failed":
        ids |= {"failureReason": "MARIA-REASON"}
    made = ev.event(name, at=at, event_id=f"{who}-{name}-{at}", **(ids | payload))
    made["externalInfo"] = {"note": "MARIA-INFO"}
    text = ev.dump(made).decode()
    if who != "maria":
        text = text.replace("MARIA", who.upper()).replace(MARIA, JOAO)
    told: dict[str, Any] = ev.orjson.loads(text)
    return told


LIFE = ("link_created", "consent_authorised", "product_request_received",
        "product_generated_success", "product_generated_failed")  # fmt: skip


def life(who: str) -> list[dict[str, Any]]:
    return [about(who, name, at) for at, name in enumerate(LIFE)]


def unknown(who: str, **members: Any) -> dict[str, Any]:
    """What is quarantined."""
    return {"eventName": "page_view", "note": "MARIA-INFO" if who == "maria" else "x"} | members


class Place:
    """A store with a worker and an eraser."""

    def __init__(self, store: Store, url: str) -> None:
        self.store, self.url = store, url
        self.clock = ManualClock(NOW)
        self.applier = Applier(store, CONFIG, clock=self.clock)
        self.eraser = Eraser(store, CONFIG, clock=self.clock)

    async def take(self, *made: Any) -> None:
        await self.applier.apply(
            [Arrival(ev.dump(one), "klavi", "b", self.clock.now()) for one in made]
        )

    async def erased(self) -> None:
        """Erase to the end."""
        await self.eraser.work()
        self.clock.move(SECOND_LOOK / 1000)
        await self.eraser.work()

    def words(self) -> list[str]:
        """What of Maria can be read, opening everything by every key there is."""
        made = books.read(self.url)
        everything = repr((
            made, books.payloads(self.url), books.answers(self.url),
            books.quarantine_bodies(self.url),
        ))  # fmt: skip
        return [word for word in WORDS if word in everything]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return books.fetch(self.url, query)

    def labels(self) -> dict[str, int]:
        return dict(self.rows("SELECT label, count(*) FROM events GROUP BY label"))  # type: ignore[arg-type]  # two columns

    async def balanced(self) -> bool:
        return all(one.ok for one in await audit(self.store, now=self.clock.now(), late_after=1e9))


@pytest.fixture
def place(store: Store, store_url: str) -> Place:
    return Place(store, store_url)


async def answered(place: Place) -> None:
    """Let every delivery fail once with an answer that quotes Maria."""
    ids = [one for (one,) in place.rows("SELECT id FROM deliveries ORDER BY id")]
    claimed = await place.store.claim(ids, lease="l", now=NOW, lease_until=NOW + 1)
    await place.store.record([
        AttemptRecord(
            one.id, "l", 1, NOW, 5, "server_error", 500, "no",
            one.aggregate.id.split("-")[0].upper().encode() + b"-INFO",
            DeliveryState.EXHAUSTED, NOW,
        )
        for one in claimed
    ])  # fmt: skip


async def test_a_deletion_erases_the_consent_in_its_own_transaction(place: Place) -> None:
    await place.take(*life("maria"), *life("joao"))
    await answered(place)
    before = books.read(place.url)
    await place.take(about("maria", "consent_deleted_by_user", 9))
    after = books.read(place.url)
    books.check(after)
    maria = AggregateKey("consent", ev.APP, "maria-consent")
    assert after.states[maria].erased
    for key, state in before.states.items():
        if "joao" in key.id:
            assert after.states[key] == state
            assert after.transitions[key] == before.transitions[key]
    (deleted,) = [one for one in after.transitions[maria] if one["type"] == "consent.deleted"]
    assert deleted["data"] == {
        "aggregate": "consent", "id": "maria-consent", "partnerAppId": ev.APP, "version": 2,
        "status": "DELETED_BY_USER", "previousStatus": "AUTHORISED", "linkId": "maria-link",
        "institutionCode": None, "externalTrackId": None, "permissionsApply": [],
        "permissionsGranted": [], "expireAt": None, "conflict": False,
    }  # fmt: skip
    for one in after.transitions[maria]:
        assert one["data"]["permissionsGranted"] == []
    assert await place.balanced()


async def test_the_eraser_goes_on_to_request_link_and_quarantine(place: Place) -> None:
    await place.take(*life("maria"), *life("joao"))
    await place.take(unknown("maria", consentId="maria-consent"), unknown("maria", cpf=MARIA),
                     unknown("joao", cpf=JOAO))  # fmt: skip
    await answered(place)
    await place.take(about("maria", "consent_deleted_by_user", 9))
    await place.erased()
    assert place.words() == []
    after = books.read(place.url)
    books.check(after)
    for kind, name in (("link", "link"), ("product_request", "request"), ("consent", "consent")):
        assert after.states[AggregateKey(kind, ev.APP, f"maria-{name}")].erased
        assert not after.states[AggregateKey(kind, ev.APP, f"joao-{name}")].erased
    assert len(books.payloads(place.url)) == len(LIFE)
    assert place.rows("SELECT count(*) FROM data_keys") == [(3,)]
    assert dict(place.rows("SELECT status, count(*) FROM quarantine GROUP BY status")) == {
        "erased": 2, "open": 1,
    }  # fmt: skip
    assert place.rows("SELECT count(*) FROM quarantine_keys") == [(1,)]
    assert set(books.answers(place.url).values()) == {b"JOAO-INFO"}
    assert place.rows("SELECT DISTINCT state, tokens FROM erasures") == [("done", "[]")]
    assert await place.balanced()


async def test_it_is_told_how_late_the_next_step_of_an_erasure_is(place: Place) -> None:
    assert await place.eraser.overdue() == 0
    await place.take(*life("maria"), about("maria", "consent_deleted_by_user", 9))
    place.clock.move(100)
    assert await place.eraser.overdue() == 100
    await place.eraser.work()
    assert await place.eraser.overdue() == 0  # not due yet
    place.clock.move(SECOND_LOOK / 1000 + 7)
    assert await place.eraser.overdue() == 7
    await place.eraser.work()
    place.clock.move(1_000)
    assert await place.eraser.overdue() == 0


async def test_late_repeated_and_replayed_events_leave_nothing_but_counts(place: Place) -> None:
    await place.take(*life("maria"), unknown("maria", consentId="maria-consent"))
    await place.take(about("maria", "consent_deleted_by_user", 9))
    await place.erased()
    await place.take(*life("maria"))  # repeated
    late = [about("maria", name, 20 + at) for at, name in enumerate(LIFE)]
    await place.take(*late, about("maria", "consent_authorised", -5))
    await place.take(unknown("maria", consentId="maria-consent"))
    await place.erased()
    assert place.words() == []
    assert books.payloads(place.url) == {}
    assert place.rows("SELECT count(*) FROM data_keys") == [(0,)]
    assert place.rows("SELECT count(*) FROM subjects") == [(0,)]
    assert place.labels()["erased"] == len(late) + 1
    assert place.rows("SELECT sum(duplicates) FROM events") == [(len(LIFE),)]
    assert place.rows("SELECT status, seen FROM quarantine") == [("erased", 2)]
    after = books.read(place.url)
    books.check(after)
    assert after.states[AggregateKey("consent", ev.APP, "maria-consent")].conflict  # type: ignore[union-attr]  # a consent
    assert await place.balanced()


async def test_what_cannot_be_read_is_not_kept_if_it_names_what_was_erased(place: Place) -> None:
    await place.take(*life("maria"))
    await place.take(about("maria", "consent_deleted_by_user", 9))
    await place.erased()
    ahead = about("maria", "consent_authorised", 999_000_000)
    report = {"requestId": "maria-request", "productName": "x", "owner": MARIA}
    await place.take(ahead, report, unknown("joao", consentId="joao-consent"))
    assert place.words() == []
    await place.take(ahead)
    assert sorted(place.rows("SELECT status, reason, seen FROM quarantine")) == [
        ("erased", "event_time_future", 2), ("erased", "no_event_name", 1),
        ("open", "event_id_missing", 1),
    ]  # fmt: skip
    assert place.rows("SELECT count(*) FROM quarantine_keys") == [(1,)]


async def test_an_order_that_comes_after_its_consent_was_erased_is_not_kept(place: Place) -> None:
    await place.take(about("maria", "consent_deleted_by_user", 9))
    await place.erased()
    await place.take(about("maria", "product_request_received", 2),
                     about("maria", "product_generated_failed", 3))  # fmt: skip
    assert place.words() == []
    assert books.payloads(place.url) == {}
    await place.erased()
    books.check(books.read(place.url))


async def test_an_order_that_names_only_its_link_goes_with_the_consents_of_the_link(
    place: Place,
) -> None:
    await place.take(about("maria", "consent_authorised", 1),
                     about("maria", "consent_deleted_by_user", 9))  # fmt: skip
    await place.erased()
    await place.take(about("maria", "product_request_received", 2, consentIds=None),
                     about("maria", "product_generated_failed", 3))  # fmt: skip
    assert place.words() == []
    assert books.payloads(place.url) == {}
    second = about("maria", "consent_authorised", 10, consentId="second")
    await place.take(second, about("maria", "product_request_received", 11, consentIds=None,
                                   requestId="another"))  # fmt: skip
    await place.erased()
    after = books.read(place.url)
    books.check(after)
    assert after.states[AggregateKey("product_request", ev.APP, "maria-request")].erased
    assert not after.states[AggregateKey("product_request", ev.APP, "another")].erased


async def test_an_order_for_an_erased_link_of_which_no_consent_is_known_is_not_kept(
    place: Place,
) -> None:
    await place.take(about("maria", "link_created", 0))
    assert await place.eraser.erase(AggregateKey("link", ev.APP, "maria-link"), why=Why.OPERATOR)
    await place.erased()
    await place.take(about("maria", "product_request_received", 2, consentIds=None))
    assert place.words() == []


async def test_an_outcome_before_its_order_goes_with_the_last_consent_of_its_person(
    place: Place,
) -> None:
    await place.take(about("maria", "consent_authorised", 1),
                     about("maria", "product_generated_failed", 3))  # fmt: skip
    await place.take(about("maria", "consent_deleted_by_user", 9))
    await place.erased()
    assert place.words() == []


async def test_link_and_request_stay_while_one_of_their_consents_does(place: Place) -> None:
    second = about("maria", "consent_authorised", 2, consentId="second")
    order = about("maria", "product_request_received", 3,
                  consentIds=["maria-consent", "second"])  # fmt: skip
    await place.take(about("maria", "link_created", 0), about("maria", "consent_authorised", 1),
                     second, order, unknown("maria", cpf=MARIA))  # fmt: skip
    await place.take(about("maria", "consent_deleted_by_user", 9))
    await place.erased()
    after = books.read(place.url)
    assert not after.states[AggregateKey("link", ev.APP, "maria-link")].erased
    assert not after.states[AggregateKey("product_request", ev.APP, "maria-request")].erased
    assert len(books.payloads(place.url)) == 3
    assert place.rows("SELECT status FROM quarantine") == [("open",)]
    await place.take(about("maria", "consent_deleted_by_user", 10, consentId="second"))
    await place.erased()
    assert place.words() == []


async def test_an_event_of_two_consents_goes_with_the_first_of_them(place: Place) -> None:
    made = about("maria", "consent_authorised", 1)
    one = made["payload"]["consents"]
    made["payload"]["consents"] = [one, one | {"consentId": "second"}]
    await place.take(made)
    await place.take(about("maria", "consent_deleted_by_user", 9))
    assert books.payloads(place.url) == {}
    after = books.read(place.url)
    books.check(after)
    assert after.states[AggregateKey("consent", ev.APP, "second")].permissions_granted  # type: ignore[union-attr]  # a consent


async def test_an_operator_erases_a_consent_and_endpoints_are_told(place: Place) -> None:
    await place.take(*life("maria"))
    key = AggregateKey("consent", ev.APP, "maria-consent")
    assert await place.eraser.erase(key, why=Why.OPERATOR)
    assert not await place.eraser.erase(key, why=Why.OPERATOR)
    await place.erased()
    assert place.words() == []
    after = books.read(place.url)
    books.check(after)
    assert [one["type"] for one in after.transitions[key]] == [
        "consent.authorised", "consent.deleted",
    ]  # fmt: skip
    await place.take(about("maria", "consent_authorised", 20_000_000))
    books.check(books.read(place.url))
    assert place.words() == []
    assert await place.balanced()


async def test_what_fails_half_way_is_done_the_next_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.take(*life("maria"), unknown("maria", consentId="maria-consent"))
    await place.take(about("maria", "consent_deleted_by_user", 9))
    wipe = place.store.wipe

    async def busy(_ids: Sequence[int]) -> dict[str, str]:
        raise StoreUnavailableError("somebody reads")

    monkeypatch.setattr(place.store, "wipe", busy)
    with pytest.raises(StoreUnavailableError):
        await place.eraser.work()
    assert place.rows("SELECT count(*) FROM erasures WHERE state = 'done'") == [(0,)]
    monkeypatch.setattr(place.store, "wipe", wipe)
    await place.erased()
    assert place.words() == []
    assert place.rows("SELECT DISTINCT state FROM erasures") == [("done",)]


async def test_an_erasure_is_done_only_when_the_second_look_has_wiped_its_notes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.take(*life("maria"), about("maria", "consent_deleted_by_user", 9))
    await place.eraser.work()
    place.clock.move(SECOND_LOOK / 1000)
    wiped: list[int] = []
    wipe, wipe_notes = place.store.wipe, place.store.wipe_notes

    async def noting(ids: Sequence[int]) -> dict[str, str]:
        wiped.extend(ids)
        return await wipe(ids)

    async def busy() -> None:
        raise StoreUnavailableError("somebody reads")

    monkeypatch.setattr(place.store, "wipe", noting)
    monkeypatch.setattr(place.store, "wipe_notes", busy)
    with pytest.raises(StoreUnavailableError):
        await place.eraser.work()
    assert len(wiped) == 3
    assert place.rows("SELECT DISTINCT state, tokens FROM erasures") == [("settling", "[]")]
    monkeypatch.setattr(place.store, "wipe_notes", wipe_notes)
    await place.eraser.work()
    assert place.rows("SELECT DISTINCT state, tokens FROM erasures") == [("done", "[]")]


@pytest.mark.parametrize("size", [1, 1_000_000_000])
async def test_quarantine_is_read_some_at_a_time(
    place: Place, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(entries, "PAGE", 3)
    monkeypatch.setattr(entries, "BYTES", size)
    await place.take(*(unknown("maria", cpf=MARIA, n=n) for n in range(7)), unknown("joao"))
    found = [one async for one in entries.opened_entries(place.store)]
    assert [len(one) for one in found] == ([1] * 8 if size == 1 else [3, 3, 2])
    assert sum(MARIA in str(body) for one in found for body in one.values()) == 7


async def test_what_a_dead_process_was_erasing_is_gone_on_with_within_seconds(place: Place) -> None:
    await place.take(*life("maria"), about("maria", "consent_deleted_by_user", 9))
    dead = Lease(place.store, TASK, clock=place.clock, seconds=HELD)
    assert await dead.take(ended_before=place.clock.now())
    assert await place.eraser.work() == 0
    place.clock.move(HELD)
    assert await place.eraser.work() > 0


async def test_a_receipt_says_what_went_where(place: Place) -> None:
    await place.take(*life("maria"), unknown("maria", consentId="maria-consent"))
    await answered(place)
    await place.take(about("maria", "consent_deleted_by_user", 9))
    await place.erased()
    (consent,) = [one for one in await Queries(place.store).erasures()
                  if one.key.kind == "consent"]  # fmt: skip
    assert consent.reason == "event"
    assert consent.receipt["erased"] == {
        "payloads": 1, "facts": 1, "notices": 1, "answers": 1, "keys": 1, "taxIds": 1,
        "quarantine": 1,
    }  # fmt: skip
    assert {one["aggregate"] for one in consent.receipt["alsoErased"]} == {
        "link", "product_request",
    }  # fmt: skip
    assert {"store", "broker", "spool", "backups"} <= consent.receipt["traces"].keys()


async def lose_key(place: Place, name: str) -> int:
    number: int = place.rows(f"SELECT id FROM aggregates WHERE key = '{name}'")[0][0]
    await place.store.change([("DELETE FROM data_keys WHERE aggregate_id = ?", (number,))])
    return number


async def test_a_restored_backup_with_the_keys_of_today_brings_nobody_back(place: Place) -> None:
    await place.take(*life("maria"), *life("joao"))
    number = await lose_key(place, "maria-consent")
    await place.store.change([
        ("INSERT INTO erasures (id, aggregate_id, kind, partner_app_id, key, reason, asked_at, "
         "state, due_at, tokens, receipt) VALUES ('e', ?, 'consent', ?, 'maria-consent', 'event', "
         "0, 'done', 0, '[]', ?)", (number, ev.APP, b"{}")),
    ])  # fmt: skip
    faults = [one.name for one in await audit(place.store, now=NOW, late_after=1e9) if not one.ok]
    assert "everything sealed has its key" in faults
    await place.eraser.require_keys()
    assert await place.eraser.catch_up() == 1
    assert await place.eraser.catch_up() == 0
    await place.erased()
    assert place.words() == []
    assert await place.balanced()
    key = AggregateKey("consent", ev.APP, "joao-consent")
    assert books.read(place.url).states[key].permissions_granted  # type: ignore[union-attr]  # a consent


async def test_a_key_that_is_merely_missing_erases_nothing(place: Place) -> None:
    await place.take(*life("maria"), *life("joao"))
    await place.eraser.require_keys()
    await lose_key(place, "maria-consent")
    before = place.rows("SELECT count(*) FROM payloads")
    with pytest.raises(SealingKeyError, match=r"1 of 1000 .* restore the newest copy"):
        await place.eraser.require_keys()
    assert await place.eraser.catch_up() == 0
    assert place.rows("SELECT count(*) FROM payloads") == before
    assert place.rows("SELECT count(*) FROM erasures") == [(0,)]


async def test_what_an_older_release_left_of_a_deleted_consent_is_erased(place: Place) -> None:
    """It kept everything in clear, and nothing of what erasure writes down."""
    await place.take(about("maria", "consent_authorised", 1))
    await place.store.change([
        ("UPDATE aggregates SET status = 'DELETED_BY_USER', private = NULL, state = ? "
         "WHERE kind = 'consent'",
         (b'{"type":"consent","status":"DELETED_BY_USER","external_track_id":"MARIA-TRACK",'
          b'"last":[7,5,"e","c"]}',)),
        ("UPDATE history SET private = NULL, fact = ? WHERE aggregate_id IN "
         "(SELECT id FROM aggregates WHERE kind = 'consent')",
         (b'{"type":"consent","change":"DELETED_BY_USER","external_track_id":"MARIA-TRACK"}',)),
        ("UPDATE payloads SET body = ?", (b'{"note":"MARIA-INFO"}',)),
    ])  # fmt: skip
    assert await place.eraser.catch_up() == 1
    await place.erased()
    assert place.words() == []
    assert await place.balanced()
