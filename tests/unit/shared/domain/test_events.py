"""Every trap that the domain knows in what the source sends, each by its name."""

from typing import Any

import pytest

from shared.domain.consent import ConsentFact, ConsentStatus
from shared.domain.events import EVENT_NAMES, Event, Reason, Unreadable, content_digest, decode
from shared.domain.keys import AggregateKey
from shared.domain.link import LinkFact
from shared.domain.product_request import OrderFact, OutcomeFact
from tests.support import events as ev

NOW = ev.EPOCH + 60_000


def read(body: bytes, **options: Any) -> Event:
    event = decode(body, now=NOW, **options)
    assert isinstance(event, Event), event
    return event


def refuse(body: bytes, **options: Any) -> Reason:
    unreadable = decode(body, now=NOW, **options)
    assert isinstance(unreadable, Unreadable), unreadable
    return unreadable.reason


def altered(name: str, **members: Any) -> bytes:
    made = ev.example(name)
    for member, value in members.items():
        if value is ...:
            made.pop(member, None)
        else:
            made[member] = value
    return ev.dump(made)


def test_the_ten_documented_names_are_the_ones_decoded() -> None:
    assert sorted(EVENT_NAMES) == sorted(ev.NAMES)


@pytest.mark.parametrize("name", ev.NAMES)
def test_each_documented_example_is_read_byte_for_byte(name: str) -> None:
    event = read(ev.raw(name))
    assert (event.name, event.type, event.partner_app_id) == (name, "api", ev.APP)
    assert event.time == ev.EPOCH


def test_what_a_consent_event_says() -> None:
    event = read(ev.raw("consent_authorised"))
    assert event.facts == (
        (
            AggregateKey("consent", ev.APP, ev.CONSENT),
            ConsentFact(
                change=ConsentStatus.AUTHORISED,
                link_id=ev.LINK,
                institution_code="033",
                external_track_id="222121",
                permissions_apply=(
                    "REGISTRATION_ALL",
                    "ACCOUNTS_ALL",
                    "CREDIT_CARDS_ALL",
                    "CREDIT_OPERATIONS_ALL",
                    "INVESTMENTS_ALL",
                ),
                permissions_granted=("REGISTRATION_ALL", "ACCOUNTS_ALL"),
                expire_at="2024-06-25T20:08:17.848Z",
            ),
        ),
        (AggregateKey("link", ev.APP, ev.LINK), LinkFact(consents=(ev.CONSENT,))),
    )


def test_what_the_product_events_say() -> None:
    request = AggregateKey("product_request", ev.APP, ev.REQUEST)
    order = OrderFact(
        link_id=ev.LINK,
        institution_code="033",
        consent_ids=(ev.CONSENT,),
        products=("pf_checking_account", "pf_credit_card"),
    )
    assert read(ev.raw("product_request_received")).facts[0] == (request, order)
    assert read(ev.raw("product_generated_success")).facts == (
        (request, OutcomeFact("pf_checking_account", succeeded=True)),
    )
    assert read(ev.raw("product_generated_failed")).facts == (
        (
            request,
            OutcomeFact("pf_checking_account", succeeded=False,
                        failure_reason="no checking account"),
        ),
    )  # fmt: skip


def test_trap_all_examples_share_one_event_id_yet_differ_in_content() -> None:
    found = [read(ev.raw(name)) for name in ev.NAMES]
    assert len({event.event_id for event in found}) == 1
    assert len({event.content for event in found}) == len(ev.NAMES)


def test_trap_a_tax_id_with_wrong_check_digits_is_no_fault() -> None:
    body = ev.dump(ev.event("product_request_received", taxId="12345678901"))
    assert isinstance(decode(body, now=NOW), Event)


def test_trap_a_tax_id_may_be_ciphertext() -> None:
    made = ev.example("link_created")
    made["payload"]["personalTaxId"] = "v1:AAECAwQFBgcICQ=="
    read(ev.dump(made))


def test_trap_consents_may_be_an_array() -> None:
    made = ev.example("consent_revoked")
    other = {**made["payload"]["consents"], "consentId": "other"}
    made["payload"]["consents"] = [made["payload"]["consents"], other]
    keys = [key for key, _ in read(ev.dump(made)).facts]
    assert keys == [
        AggregateKey("consent", ev.APP, ev.CONSENT),
        AggregateKey("consent", ev.APP, "other"),
        AggregateKey("link", ev.APP, ev.LINK),
    ]


def test_trap_one_consent_twice_in_an_array_is_one_fact() -> None:
    made = ev.example("consent_revoked")
    made["payload"]["consents"] = [made["payload"]["consents"]] * 2
    assert len(read(ev.dump(made)).facts) == 2


def test_trap_an_empty_array_of_consents_is_malformed() -> None:
    made = ev.example("consent_revoked")
    made["payload"]["consents"] = []
    assert refuse(ev.dump(made)) is Reason.MALFORMED


def test_trap_the_event_id_has_two_spellings() -> None:
    made = ev.example("link_created")
    made["eventID"] = made.pop("eventId")
    assert read(ev.dump(made)).event_id == ev.example("link_created")["eventId"]


@pytest.mark.parametrize("spelling", ["productsCallbackURL", "productsCallbackUrl"])
def test_trap_the_callback_url_has_three_spellings(spelling: str) -> None:
    made = ev.example("product_request_received")
    body = made["payload"]["requestBody"]
    body[spelling] = body.pop("productCallbackUrl")
    assert isinstance(read(ev.dump(made)).facts[0][1], OrderFact)


def test_trap_ids_are_opaque() -> None:
    made = ev.event("consent_revoked", consentId="não-é-um-uuid/√", linkId=" ")
    assert read(ev.dump(made)).facts[0][0].id == "não-é-um-uuid/√"


@pytest.mark.parametrize("value", ["", None, ...])
def test_trap_a_consent_may_have_no_end(value: Any) -> None:
    made = ev.example("consent_authorised")
    if value is ...:
        del made["payload"]["consents"]["expireAt"]
    else:
        made["payload"]["consents"]["expireAt"] = value
    fact = read(ev.dump(made)).facts[0][1]
    assert isinstance(fact, ConsentFact)
    assert fact.expire_at is None


def test_trap_permissions_and_products_are_open_sets() -> None:
    made = ev.event("consent_authorised", permissionsGranted=["QUITE_NEW"])
    fact = read(ev.dump(made)).facts[0][1]
    assert isinstance(fact, ConsentFact)
    assert fact.permissions_granted == ("QUITE_NEW",)
    read(ev.dump(ev.event("product_generated_success", product="pj_yet_unknown")))


def test_trap_dispatch_is_by_the_exact_pair_never_by_substring() -> None:
    assert refuse(altered("consent_rejected", eventType="payment")) is Reason.UNKNOWN_EVENT
    assert (
        refuse(altered("consent_rejected", eventName="payment_consent_rejected"))
        is Reason.UNKNOWN_EVENT
    )


@pytest.mark.parametrize("value", ["", None, ...])
def test_a_missing_event_time_is_told_apart(value: Any) -> None:
    assert refuse(altered("link_created", eventTime=value)) is Reason.EVENT_TIME_MISSING


@pytest.mark.parametrize("value", ["yesterday", 1656187697848, {}, "2022-13-45T00:00:00Z", "2022"])
def test_an_unparseable_event_time_is_told_apart(value: Any) -> None:
    assert refuse(altered("link_created", eventTime=value)) is Reason.EVENT_TIME_UNPARSEABLE


def test_an_event_time_may_lie_a_day_ahead_and_no_more() -> None:
    day = 86_400_000
    read(altered("link_created", eventTime=ev.iso(NOW + day)))
    assert (
        refuse(altered("link_created", eventTime=ev.iso(NOW + day + 1))) is Reason.EVENT_TIME_FUTURE
    )


def test_an_event_of_another_application_is_foreign() -> None:
    assert refuse(ev.raw("link_created"), partner_app_ids=("other",)) is Reason.FOREIGN_APPLICATION
    read(ev.raw("link_created"), partner_app_ids=("other", ev.APP))


def test_other_link_action_status_is_an_unknown_event() -> None:
    body = altered("link_created", eventName="link_action_status")
    assert refuse(body) is Reason.UNKNOWN_EVENT


def test_other_analysis_finished_is_an_unknown_event() -> None:
    body = altered("link_created", eventType="analysis", eventName="analysis_finished")
    assert refuse(body) is Reason.UNKNOWN_EVENT


def test_other_page_tracking_has_no_event_id() -> None:
    assert refuse(b'{"eventName":"page_view","payload":{}}') is Reason.EVENT_ID_MISSING


def test_other_product_report_has_no_event_name() -> None:
    body = b'{"requestId":"r","productName":"pf_loans","data":[]}'
    assert refuse(body) is Reason.NO_EVENT_NAME


def test_other_event_name_that_does_not_exist_yet() -> None:
    assert refuse(altered("link_created", eventName="consent_paused")) is Reason.UNKNOWN_EVENT


@pytest.mark.parametrize("body", [b'"text"', b"1", b"null", b"[]", b"true"])
def test_an_element_that_is_no_object(body: bytes) -> None:
    assert refuse(body) is Reason.NOT_AN_OBJECT


@pytest.mark.parametrize(
    ("member", "value"),
    [("partnerAppId", 12345678), ("partnerAppId", ""), ("payload", None), ("payload", {}),
     ("partnerAppId", "x" * 257)],
)  # fmt: skip
def test_a_wrong_shape_is_malformed_and_the_detail_quotes_nothing(member: str, value: Any) -> None:
    unreadable = decode(altered("link_created", **{member: value}), now=NOW)
    assert isinstance(unreadable, Unreadable)
    assert unreadable.reason is Reason.MALFORMED
    assert "12345678" not in unreadable.detail
    assert "xxx" not in unreadable.detail


def test_a_missing_event_id() -> None:
    assert refuse(altered("link_created", eventId=...)) is Reason.EVENT_ID_MISSING


def test_nul_in_an_id_cannot_be_stored_as_text() -> None:
    made = ev.example("link_created")
    made["payload"]["linkId"] = "a\0b"
    assert refuse(ev.dump(made)) is Reason.NUL_CHARACTER


def test_nul_in_free_text_is_harmless() -> None:
    made = ev.example("link_created")
    made["externalInfo"]["note"] = "a\0b"
    read(ev.dump(made))


def test_a_lone_surrogate_cannot_be_read() -> None:
    body = ev.raw("link_created").replace(b"ed812-", b"\\ud800-")
    assert refuse(body) in (Reason.NOT_JSON, Reason.MALFORMED)


def test_the_content_is_the_same_for_any_order_of_keys_and_white_space() -> None:
    assert content_digest(b'{"a":1,"b":[2]}') == content_digest(b'{ "b": [2], "a": 1 }')
    assert content_digest(b'{"a":1}') != content_digest(b'{"a":1.0}')


def test_without_its_key_nobody_can_try_out_what_a_content_was() -> None:
    body = ev.raw("link_created")
    keyed = read(body, digest_key=b"k" * 32).content
    assert keyed == content_digest(body, b"k" * 32)
    assert keyed not in (content_digest(body), content_digest(body, b"l" * 32))


def test_content_that_one_parser_refuses_still_has_a_digest() -> None:
    assert content_digest(b'{"a":1e400}') != content_digest(b'{"a":2e400}')


def test_deep_nesting_is_refused_not_fatal() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert refuse(b'{"eventName":"x","eventId":"y","payload":' + deep + b"}") is Reason.NOT_JSON


def test_trap_the_prefix_of_an_event_id_is_no_ordering_key() -> None:
    made = ev.event("consent_revoked", at=1, event_id="1495468585434-a")
    older_by_name = ev.event("consent_revoked", at=2, event_id="1395468585434-a")
    first, second = (read(ev.dump(one)) for one in (made, older_by_name))
    assert first.position(first.facts[0][1]) < second.position(second.facts[0][1])


def test_trap_a_consent_id_longer_than_documented_is_kept() -> None:
    made = ev.event("consent_revoked", consentId="x" * 200)
    assert read(ev.dump(made)).facts[0][0].id == "x" * 200


def test_trap_the_callback_url_is_the_providers_and_is_not_even_kept_as_a_fact() -> None:
    (_, order), *_ = read(ev.raw("product_request_received")).facts
    assert "yourdomain" not in repr(order)


def test_trap_outcomes_name_no_link_and_no_consent() -> None:
    for name in ("product_generated_success", "product_generated_failed"):
        assert [key.kind for key, _ in read(ev.raw(name)).facts] == ["product_request"]


def test_duplicate_keys_take_the_last_value_in_both_parsers() -> None:
    body = ev.raw("link_created").replace(b'"linkId":', b'"linkId":"first","linkId":')
    assert read(body).facts[0][0].id == ev.LINK
    assert content_digest(body) == content_digest(ev.raw("link_created"))


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e400", b"9" * 5_000])
def test_a_number_that_no_store_holds_where_an_id_belongs_is_refused(number: bytes) -> None:
    body = ev.raw("link_created").replace(b'"ed812-81fcec-7ec55-7aa7d29-2a3188b75"', number)
    assert refuse(body) in (Reason.NOT_JSON, Reason.MALFORMED)
