"""Folding a batch in memory: labels, versions, deliveries."""

import itertools
from typing import Any

import msgspec
import pytest

from shared.config import EndpointConfig, Secret
from shared.domain import aggregates
from shared.domain.events import Event, Reason, Unreadable, decode
from shared.domain.keys import AggregateKey
from shared.fanout import Subscriptions
from shared.store.rows import Aggregate, Changes, EventRef, FoldedEntry, KnownEvent, Label
from tests.benchmarks import traffic
from tests.support import events as ev
from worker.events import fold
from worker.events.arrivals import Arrival, Decoded, decode_all

NOW = ev.EPOCH + 1_000_000


class Memory:
    """What a store would know, for one batch after the other."""

    def __init__(self, *types: str) -> None:
        self.aggregates: dict[AggregateKey, Aggregate] = {}
        self.known: dict[EventRef, list[KnownEvent]] = {}
        self.history: dict[int, list[FoldedEntry]] = {}
        self.events: dict[int, Any] = {}
        endpoint = EndpointConfig(id="crm", url="http://x", secrets=(Secret("s"),), types=types)
        self.subscriptions = Subscriptions([endpoint])

    def apply(self, *made: Any, quarantine_id: str = "") -> Changes:
        arrivals = [
            Arrival(
                body=one if isinstance(one, bytes) else ev.dump(one),
                source="klavi",
                batch_id="b",
                received_at=NOW,
                quarantine_id=quarantine_id,
            )
            for one in made
        ]
        batch = decode_all(arrivals, now=NOW, future_tolerance=86_400_000, applications={})
        start = len(self.events)
        sifted = fold.sift(batch, known=self.known, numbers=range(start, start + len(batch)))
        for key in sorted(fold.keys(batch)):
            blank = Aggregate(len(self.aggregates), key, 0, aggregates.initial(key.kind))
            self.aggregates.setdefault(key, blank)
        late = fold.late_aggregates(sifted.fresh, self.aggregates)
        folder = fold.Folder(
            self.aggregates,
            histories={number: self.history[number] for number in late},
            subscriptions=self.subscriptions,
            now=NOW,
        )
        changes = folder.fold(sifted)
        self._keep(changes, sifted)
        return changes

    def _keep(self, changes: Changes, sifted: fold.Sifted) -> None:
        for one in sifted.fresh:
            self.events[one.seq] = one.event
        for event in changes.events:
            entry = KnownEvent(event.seq, event.variant, event.content)
            self.known.setdefault(event.ref, []).append(entry)
        for row in changes.history:
            at = self.events[row.event_seq].position(row.fact)
            self.history.setdefault(row.aggregate_id, []).append(FoldedEntry(at, row.fact))
        self.aggregates |= {one.key: one for one in changes.aggregates}


def labels(changes: Changes) -> list[Label]:
    return [event.label for event in changes.events]


def told(changes: Changes) -> list[tuple[str, int, str, str]]:
    return [(one.type, one.version, one.from_status, one.to_status) for one in changes.transitions]


def test_a_new_consent_is_applied_and_told_once() -> None:
    changes = Memory("*").apply(ev.raw("consent_authorised"))
    assert labels(changes) == [Label.APPLIED]
    assert told(changes) == [("consent.authorised", 1, "", "AUTHORISED")]
    assert [one.endpoint for one in changes.deliveries] == ["crm"]
    assert {(one.key.kind, one.version) for one in changes.aggregates} == {
        ("consent", 1), ("link", 0),
    }  # fmt: skip


def test_the_same_again_is_a_duplicate_of_it_and_tells_nobody() -> None:
    memory = Memory("*")
    first = memory.apply(ev.raw("link_created"))
    again = memory.apply(ev.raw("link_created"), ev.raw("link_created"))
    assert again == Changes(duplicates={first.events[0].seq: 2}, folded_at=NOW)


def test_a_repetition_within_one_batch_is_a_duplicate_too() -> None:
    changes = Memory("*").apply(ev.raw("link_created"), ev.raw("link_created"))
    assert labels(changes) == [Label.APPLIED]
    assert changes.duplicates == {changes.events[0].seq: 1}


def test_the_same_id_with_other_content_is_divergent_and_still_folded() -> None:
    memory = Memory("*")
    memory.apply(ev.raw("consent_authorised"))
    changes = memory.apply(ev.raw("consent_revoked"))
    assert labels(changes) == [Label.DIVERGENT]
    assert changes.events[0].variant == 1
    assert told(changes) == [("consent.revoked", 2, "AUTHORISED", "REVOKED")]


def test_a_late_event_that_changes_nothing_is_stale_and_tells_nobody() -> None:
    memory = Memory("*")
    memory.apply(ev.event("consent_revoked", at=10))
    changes = memory.apply(ev.event("consent_authorised", at=5, permissionsGranted=[],
                                    expireAt=None))  # fmt: skip
    assert labels(changes) == [Label.STALE]
    assert told(changes) == []


def test_a_later_event_that_changes_nothing_is_recorded() -> None:
    memory = Memory("*")
    memory.apply(ev.event("consent_revoked", at=10))
    assert labels(memory.apply(ev.event("consent_expired", at=20))) == [Label.RECORDED]


def test_a_late_event_that_changes_the_outcome_is_applied() -> None:
    memory = Memory("*")
    memory.apply(ev.event("consent_authorised", at=10))
    changes = memory.apply(ev.event("consent_revoked", at=5))
    assert told(changes) == [("consent.conflict", 2, "AUTHORISED", "AUTHORISED")]


def test_error_after_authorised_tells_status_and_conflict_as_two_versions() -> None:
    memory = Memory("*")
    memory.apply(ev.event("consent_authorised", at=1))
    changes = memory.apply(ev.event("consent_error", at=2))
    assert told(changes) == [
        ("consent.error", 2, "AUTHORISED", "ERROR"),
        ("consent.conflict", 3, "ERROR", "ERROR"),
    ]


def test_a_batch_is_folded_in_the_order_of_event_times() -> None:
    changes = Memory("*").apply(
        ev.event("consent_revoked", at=3), ev.event("consent_authorised", at=1)
    )
    assert [one.type for one in changes.transitions] == ["consent.authorised", "consent.revoked"]


def test_refreshed_permissions_are_told_as_an_update() -> None:
    memory = Memory("*")
    memory.apply(ev.event("consent_authorised", at=1))
    refreshed = ev.event("consent_authorised", at=2, permissionsGranted=["ACCOUNTS_ALL"])
    changes = memory.apply(refreshed)
    assert told(changes) == [("consent.updated", 2, "AUTHORISED", "AUTHORISED")]
    assert labels(changes) == [Label.APPLIED]


def test_a_change_of_description_alone_is_told_but_only_recorded() -> None:
    memory = Memory("*")
    memory.apply(ev.event("consent_revoked", at=1))
    changes = memory.apply(ev.event("consent_revoked", at=2, institutionCode="341"))
    assert told(changes) == [("consent.updated", 2, "REVOKED", "REVOKED")]
    assert labels(changes) == [Label.RECORDED]


def test_a_product_request_from_placeholder_to_complete() -> None:
    memory = Memory("*")
    early = memory.apply(ev.event("product_generated_success", at=2))
    assert told(early) == [("product.succeeded", 1, "PLACEHOLDER", "PLACEHOLDER")]
    order = memory.apply(ev.event("product_request_received", at=1))
    assert told(order) == [("product_request.received", 2, "PLACEHOLDER", "PENDING")]
    rest = memory.apply(ev.event("product_generated_failed", at=3, product="pf_credit_card"))
    assert told(rest) == [
        ("product.failed", 3, "PENDING", "COMPLETE"),
        ("product_request.completed", 4, "COMPLETE", "COMPLETE"),
    ]


def test_the_same_product_succeeding_twice_is_counted_and_told_once() -> None:
    memory = Memory("*")
    memory.apply(ev.event("product_generated_success", at=1))
    changes = memory.apply(ev.event("product_generated_success", at=2))
    assert told(changes) == []
    assert labels(changes) == [Label.RECORDED]


def test_one_event_about_two_consents_moves_both() -> None:
    made = ev.event("consent_revoked", at=1)
    first = made["payload"]["consents"]
    made["payload"]["consents"] = [first, {**first, "consentId": "other"}]
    changes = Memory("*").apply(made)
    assert [one.type for one in changes.transitions] == ["consent.revoked"] * 2
    assert len({one.aggregate_id for one in changes.transitions}) == 2
    assert labels(changes) == [Label.APPLIED]


def test_what_cannot_be_read_is_quarantined_and_the_rest_applied() -> None:
    changes = Memory("*").apply(b'{"nothing":1}', ev.raw("link_created"))
    assert labels(changes) == [Label.APPLIED]
    (entry,) = changes.quarantined
    assert (entry.reason, entry.body, entry.source) == ("no_event_name", b'{"nothing":1}', "klavi")


def test_a_replayed_entry_is_resolved_only_when_it_can_be_read() -> None:
    memory = Memory("*")
    assert memory.apply(ev.raw("link_created"), quarantine_id="q1").replayed == ["q1"]
    still = memory.apply(b'{"nothing":1}', quarantine_id="q2")
    assert still.replayed == []
    assert len(still.quarantined) == 1


@pytest.mark.parametrize(
    ("types", "wanted"),
    [(("*",), True), (("consent.*",), True), (("consent.authorised",), True),
     (("product.*", "link.created"), False)],
)  # fmt: skip
def test_endpoints_hear_only_of_types_they_asked_for(types: tuple[str, ...], wanted: bool) -> None:  # noqa: FBT001 - a parameter of the table above
    changes = Memory(*types).apply(ev.raw("consent_authorised"))
    assert len(changes.transitions) == 1
    assert bool(changes.deliveries) is wanted


def test_the_last_notice_carries_the_final_state_and_nothing_personal() -> None:
    memory = Memory("*")
    changes = memory.apply(
        ev.event("consent_authorised", at=1), ev.event("consent_deleted_by_user", at=2)
    )
    last = changes.transitions[-1]
    assert last.private == b""
    assert msgspec.json.decode(last.data) == {
        "aggregate": "consent",
        "id": ev.CONSENT,
        "partnerAppId": ev.APP,
        "version": 2,
        "status": "DELETED_BY_USER",
        "previousStatus": "AUTHORISED",
        "linkId": ev.LINK,
        "institutionCode": None,
        "externalTrackId": None,
        "permissionsApply": [],
        "permissionsGranted": [],
        "expireAt": None,
        "conflict": False,
    }


def decoded(*made: Any) -> list[Decoded]:
    arrivals = [
        Arrival(one if isinstance(one, bytes) else ev.dump(one), "klavi", "b", NOW) for one in made
    ]
    return decode_all(arrivals, now=NOW, future_tolerance=10**12, applications={})


def spoken_of(part: list[Decoded]) -> set[object]:
    """Aggregates and events that only one part may have to do with."""
    fresh = [
        fold.Fresh(0, 0, one.arrival, one.content) for one in part if isinstance(one.content, Event)
    ]
    return {*fold.keys(part), *fold.refs(part), *fold.ordered_consents(fresh, {})}


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_have_nothing_to_do_with_each_other(parts: int) -> None:
    batch = decoded(*traffic.events(600), *traffic.events(30), b"{}", b"no json")
    shares = fold.apart(batch, parts)
    assert len(shares) == parts
    for number, one in enumerate(shares):
        for other in shares[:number]:
            assert not spoken_of(one) & spoken_of(other)
    place = {id(one): number for number, one in enumerate(batch)}
    orders = [[place[id(one)] for one in share] for share in shares]
    assert all(order == sorted(order) for order in orders)
    assert sorted(itertools.chain(*orders)) == list(range(len(batch)))
    assert max(map(len, shares)) - min(map(len, shares)) < 5


def test_what_meets_over_others_stays_together() -> None:
    apart = [
        ev.event("consent_authorised", at=i, consentId=f"c{i}", linkId=f"l{i}") for i in range(60)
    ]
    bridge = ev.event("product_request_received", at=61, linkId="l0", consentIds=["c1", "gone"])
    same = ev.event("link_created", at=62, event_id="consent_authorised-2", linkId="another")
    late = ev.event("product_request_received", at=63, requestId="r2", consentIds=["gone"])
    batch = decoded(*apart, bridge, same, late)
    shares = fold.apart(batch, 2)

    def share_of(number: int) -> int:
        return next(i for i, share in enumerate(shares) if batch[number] in share)

    assert len({share_of(one) for one in (0, 1, 60, 62)}) == 1
    assert share_of(2) == share_of(61)


def test_a_small_batch_stays_whole() -> None:
    batch = decoded(*traffic.events(fold.SMALL - 1))
    assert fold.apart(batch, 2) == [batch]


def test_an_event_over_which_the_decoder_stumbles_stops_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stumbling(body: bytes, **more: Any) -> Event | Unreadable:
        if body == b"stone":
            raise ZeroDivisionError
        return decode(body, **more)

    monkeypatch.setattr("worker.events.arrivals.decode", stumbling)
    good, bad = decoded(ev.event("link_created"), b"stone")
    assert isinstance(good.content, Event)
    assert bad.content == Unreadable(Reason.MALFORMED, "ZeroDivisionError")


def test_an_institution_told_in_clear_goes_with_a_deletion_of_the_same_batch() -> None:
    rejected = ev.event("consent_rejected", at=1, event_id="a-1", consentId="c1")
    rejected["payload"]["consents"] = {"consentId": "c1", "institutionCode": "SECRETBANK"}
    deleted = ev.event("consent_deleted_by_user", at=2, event_id="a-2", consentId="c1")
    changes = Memory().apply(rejected, deleted)
    assert len(changes.transitions) >= 2
    assert not any(b"SECRETBANK" in one.data + one.private for one in changes.transitions)
