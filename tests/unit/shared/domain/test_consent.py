import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain import aggregates, consent
from shared.domain.consent import TRANSITIONS, ConsentFact, ConsentState, ConsentStatus
from shared.domain.events import Event, decode
from shared.domain.keys import Position
from tests.support import events as ev
from tests.support import model

A, E, R, X, V, D = ConsentStatus

# domain.md's table, written down by hand: (current, announced) -> (status, conflict)
TABLE = {
    (None, A): (A, False), (None, E): (E, False), (None, R): (R, False),
    (None, X): (X, False), (None, V): (V, False), (None, D): (D, False),
    (A, A): (A, False), (A, E): (E, True), (A, R): (R, False),
    (A, X): (X, False), (A, V): (V, False), (A, D): (D, False),
    (E, A): (A, False), (E, E): (E, False), (E, R): (R, False),
    (E, X): (X, False), (E, V): (V, False), (E, D): (D, False),
    (R, A): (A, True), (R, E): (R, True), (R, R): (R, False),
    (R, X): (R, False), (R, V): (R, False), (R, D): (D, False),
    (X, A): (A, True), (X, E): (X, True), (X, R): (X, False),
    (X, X): (X, False), (X, V): (X, False), (X, D): (D, False),
    (V, A): (A, True), (V, E): (V, True), (V, R): (V, False),
    (V, X): (V, False), (V, V): (V, False), (V, D): (D, False),
    (D, A): (D, True), (D, E): (D, False), (D, R): (D, False),
    (D, X): (D, False), (D, V): (D, False), (D, D): (D, False),
}  # fmt: skip


def test_every_cell_of_the_table() -> None:
    assert {pair: (move.to, move.conflict) for pair, move in TRANSITIONS.items()} == TABLE


def _at(time: int, change: ConsentStatus = A, content: str = "") -> Position:
    return Position(time, consent.RANK[change], f"e{time}", content or f"c{time}")


def test_only_an_authorised_event_that_takes_effect_grants_permissions() -> None:
    history = [
        (_at(1), ConsentFact(A, permissions_granted=("ONE",), expire_at="2030")),
        (_at(2, V), ConsentFact(V, permissions_granted=("TWO",), expire_at="2040")),
    ]
    state = consent.fold(history)
    assert state.permissions_granted == ("ONE",)
    assert state.expire_at == "2030"
    assert state.status is V


def test_a_deleted_consent_keeps_nothing_personal_whatever_comes_after() -> None:
    history = [
        (_at(1), ConsentFact(A, "L", "BANK", "TRACK", ("P",), ("P",), "2030")),
        (_at(2, D), ConsentFact(D, "L", "BANK", "TRACK", ("P",), ("P",), "2030")),
        (_at(3), ConsentFact(A, "M", "BANK", "TRACK", ("Q",), ("Q",), "2040")),
    ]
    for order in itertools.permutations(history):
        state = consent.fold(order)
        assert state == ConsentState(D, link_id="M", conflicts=("c3",), last=_at(3))
        assert state.erased
        assert state.conflict


def test_an_operators_erasure_is_a_deletion_at_its_time() -> None:
    history = [
        (_at(1), ConsentFact(A, "L", "BANK", "TRACK", ("P",), ("P",), "2030")),
        (_at(9), ConsentFact(A, permissions_granted=("Q",))),
    ]
    before = consent.fold(history[:1])
    erased = aggregates.erase(before, history[:1], at=5)
    assert erased == ConsentState(D, link_id="L", erased_at=5, last=Position(5, 5, "", ""))
    later = aggregates.step(erased, *history[1])
    assert later.conflict
    assert aggregates.refold(later, history) == later
    assert aggregates.erase(later, history, at=99) == later


def test_permissions_are_empty_before_the_first_authorisation() -> None:
    state = consent.fold(
        [(_at(1, E), ConsentFact(E, permissions_granted=("X",), expire_at="2030"))]
    )
    assert state.permissions_granted == ()
    assert state.expire_at is None


def test_a_tie_of_times_fails_closed() -> None:
    history = [(_at(1, V), ConsentFact(V)), (_at(1, A, "x"), ConsentFact(A))]
    assert consent.fold(history).status is V


def test_an_event_that_carries_no_description_leaves_the_former_one() -> None:
    history = [
        (_at(1), ConsentFact(A, link_id="L", permissions_apply=("P",))),
        (_at(2, V), ConsentFact(V)),
    ]
    state = consent.fold(history)
    assert (state.link_id, state.permissions_apply) == ("L", ("P",))


def test_a_cleared_conflict_stays_cleared_and_a_new_one_shows() -> None:
    history = [(_at(1, V), ConsentFact(V)), (_at(2), ConsentFact(A))]
    raised = consent.fold(history)
    assert raised.conflict
    cleared = consent.fold(history, cleared=raised.conflicts)
    assert not cleared.conflict
    assert consent.step(cleared, _at(3, E), ConsentFact(E)).conflict


changes = st.lists(
    st.tuples(
        st.sampled_from(["authorised", "error", "rejected", "expired", "revoked",
                         "deleted_by_user"]),
        st.integers(0, 4),
        st.sampled_from(["a", "b"]),
        st.sampled_from([[], ["P1"], ["P1", "P2"]]),
        st.sampled_from([None, "2030-01-01T00:00:00.000Z"]),
    ),
    max_size=6,
)  # fmt: skip


@given(changes, st.randoms(use_true_random=False))
def test_any_order_of_arrival_ends_as_the_model_says(
    drawn: list[tuple[str, int, str, list[str], str | None]], random: object
) -> None:
    made = [
        ev.event(
            f"consent_{change}", at=at, event_id=event_id, permissionsGranted=granted, expireAt=end
        )
        for change, at, event_id, granted, end in drawn
    ]
    decoded = {}
    for one in made:
        event = decode(ev.dump(one), now=ev.EPOCH + 10)
        assert isinstance(event, Event)
        decoded[event.content] = (one, event)
    expected = model.consent((one, digest) for digest, (one, _) in decoded.items())

    arrivals = list(decoded.values())
    random.shuffle(arrivals)  # type: ignore[attr-defined]  # hypothesis gives a Random
    state: aggregates.State = ConsentState()
    history = []
    for _, event in arrivals:
        fact = event.facts[0][1]
        at = event.position(fact)
        history.append((at, fact))
        if aggregates.needs_history(state, at):
            state = aggregates.refold(state, history)
        else:
            state = aggregates.step(state, at, fact)
    assert isinstance(state, ConsentState)
    assert (state.status, state.conflict) == (expected["status"], expected["conflict"])
    assert list(state.permissions_granted) == expected["permissionsGranted"]
    assert state.expire_at == expected["expireAt"]
    assert state.link_id == expected.get("linkId", "")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_authorised_revoked_authorised_is_a_conflict_in_every_order(order: tuple[int, ...]) -> None:
    history = [
        (_at(1), ConsentFact(A)),
        (_at(2, V), ConsentFact(V)),
        (_at(3), ConsentFact(A)),
    ]
    state = consent.fold(history[i] for i in order)
    assert (state.status, state.conflict) == (A, True)
