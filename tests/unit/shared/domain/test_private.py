"""What is personal is told apart from the rest, and put together again without a loss."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain import aggregates, notices
from shared.domain.aggregates import Fact, State
from shared.domain.consent import ConsentFact, ConsentState, ConsentStatus
from shared.domain.events import Event, decode
from shared.domain.keys import AggregateKey, Position
from shared.domain.link import LinkFact, LinkState
from shared.domain.private import (
    join_data,
    join_fact,
    join_state,
    split_data,
    split_fact,
    split_state,
)
from shared.domain.product_request import OrderFact, OutcomeFact, ProductRequestState
from shared.domain.tax_ids import normalise
from tests.support import events as ev

text = st.text(max_size=12)
texts = st.lists(text, max_size=3).map(tuple)
facts: st.SearchStrategy[Fact] = st.one_of(
    st.builds(
        ConsentFact, st.sampled_from(ConsentStatus), text, text, text, st.none() | texts, texts,
        st.none() | text,
    ),
    st.builds(LinkFact, st.booleans(), texts),
    st.builds(OrderFact, text, text, texts, texts),
    st.builds(OutcomeFact, text, st.booleans(), text),
)  # fmt: skip


@given(facts)
def test_a_fact_comes_back_whole_and_is_bare_without_its_part(fact: Fact) -> None:
    document, part = split_fact(fact)
    assert join_fact(document, part) == fact
    assert aggregates.bare_fact(join_fact(document, b"")) == aggregates.bare_fact(fact)
    assert split_fact(aggregates.bare_fact(fact))[1] == b""


@given(st.lists(facts, max_size=5))
def test_a_state_comes_back_whole(history: list[Fact]) -> None:
    for empty in (ConsentState(), LinkState(), ProductRequestState()):
        state: State = empty
        for number, fact in enumerate(history):
            at = Position(number, aggregates.rank_of(fact), f"e{number}", "c")
            try:
                state = aggregates.step(state, at, fact)
            except TypeError:  # it speaks of another kind
                continue
        document, part = split_state(state)
        assert join_state(document, part) == state
        bare = join_state(document, b"")
        assert split_state(bare)[1] == b""
        assert aggregates.status_of(bare) == aggregates.status_of(state)


SECRETS = (b"REGISTRATION_ALL", b"222121", b"033", b"2024-06-25")


@pytest.mark.parametrize("name", ev.NAMES)
def test_nothing_personal_stays_in_the_open_part(name: str) -> None:
    event = decode(ev.raw(name), now=ev.EPOCH)
    assert isinstance(event, Event)
    for key, fact in event.facts:
        document, _ = split_fact(fact)
        state = aggregates.step(aggregates.initial(key.kind), event.position(fact), fact)
        open_state, _ = split_state(state)
        data, part = split_data(notices.data(key, version=1, previous="", state=state))
        for secret in SECRETS if key.kind == "consent" else SECRETS[:2]:
            for place in (document, open_state, data):
                assert secret not in place, (name, place)
        told = msgspec.json.decode(join_data(data, part))
        assert told == notices.data(key, version=1, previous="", state=state)


def test_data_without_anything_personal_stays_in_one_piece() -> None:
    key = AggregateKey("consent", "app", "c1")
    deleted = ConsentState(ConsentStatus.DELETED_BY_USER, link_id="l1")
    data, part = split_data(notices.data(key, version=1, previous="", state=deleted))
    assert part == b""
    assert msgspec.json.decode(data)["permissionsGranted"] == []
    assert join_data(b"{}", b'{"a":1}') == b'{"a":1}'
    assert join_data(b'{"a":1}', b"{}") == b'{"a":1}'


@pytest.mark.parametrize(
    ("given_", "wanted"),
    [
        ("12345678901", "12345678901"),
        ("123.456.789-01", "12345678901"),
        ("12.345.678/0001-95", "12345678000195"),
        ("12.abc.345/01de-35", "12ABC34501DE35"),
        ("gAAAAABciphertext==", None),
        ("1234567890", None),
        ("１２３４５６７８９０１", None),  # noqa: RUF001 - digits of another script
        (12345678901, None),
        (None, None),
        ("", None),
    ],
)  # fmt: skip
def test_what_has_the_form_of_a_tax_id(given_: object, wanted: str | None) -> None:
    assert normalise(given_) == wanted


def test_an_event_names_its_people_once() -> None:
    made = ev.event("product_request_received", personalTaxId="123.456.789-09")
    made["payload"]["businessTaxId"] = {"not": "a text"}
    event = decode(ev.dump(made), now=ev.EPOCH)
    assert isinstance(event, Event)
    assert event.tax_ids == ("12345678909", "12345678901")
    assert [key.kind for key in event.owners] == ["product_request"]
    link = decode(ev.raw("link_created"), now=ev.EPOCH)
    assert isinstance(link, Event)
    assert [key.kind for key in link.owners] == ["link"]
