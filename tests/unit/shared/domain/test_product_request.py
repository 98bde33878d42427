from hypothesis import given
from hypothesis import strategies as st

from shared.domain import product_request
from shared.domain.keys import Position
from shared.domain.product_request import (
    OrderFact,
    OutcomeFact,
    ProductRequestState,
    ProductStatus,
    RequestStatus,
)


def _at(time: int) -> Position:
    return Position(time, 0, f"e{time}", f"c{time}")


def test_an_outcome_before_its_order_waits_in_a_placeholder() -> None:
    state = product_request.fold([(_at(2), OutcomeFact("pf_loans", succeeded=True))])
    assert state.status is RequestStatus.PLACEHOLDER
    state = product_request.step(state, _at(1), OrderFact(products=("pf_loans",)))
    assert state.status is RequestStatus.COMPLETE


def test_one_success_outweighs_any_failure() -> None:
    facts = [
        OutcomeFact("p", succeeded=False, failure_reason="late"),
        OutcomeFact("p", succeeded=True),
        OutcomeFact("p", succeeded=False, failure_reason="later"),
    ]
    state = product_request.fold((_at(i), fact) for i, fact in enumerate(facts))
    assert state.product("p").status is ProductStatus.SUCCEEDED
    assert (state.product("p").successes, state.product("p").failures) == (1, 2)
    assert state.product("p").failure_reason == "later"


def test_an_unlisted_product_is_kept_and_does_not_complete_the_request() -> None:
    state = product_request.fold([
        (_at(1), OrderFact(products=("p",))),
        (_at(2), OutcomeFact("q", succeeded=True)),
    ])  # fmt: skip
    assert state.status is RequestStatus.PENDING
    assert set(state.products) == {"p", "q"}


def test_all_products_have_no_known_list_and_settle_by_time() -> None:
    state = product_request.fold([
        (_at(1), OrderFact(products=("all",))),
        (_at(2), OutcomeFact("q", succeeded=True)),
    ])  # fmt: skip
    assert state.status is RequestStatus.PENDING
    assert state.settles
    assert product_request.settle(state).status is RequestStatus.SETTLED


def test_a_request_with_a_list_is_never_settled_by_time() -> None:
    state = product_request.fold([(_at(1), OrderFact(products=("p",)))])
    assert product_request.settle(state) is state


def test_of_two_orders_the_later_in_time_holds_whichever_came_first() -> None:
    early, late = OrderFact(products=("p",)), OrderFact(products=("p", "q"))
    one = product_request.fold([(_at(1), early), (_at(2), late)])
    two = product_request.fold([(_at(2), late), (_at(1), early)])
    assert one == two
    assert one.listed == ("p", "q")


facts = st.one_of(
    st.builds(OrderFact, products=st.sampled_from([("p",), ("p", "q"), ("all",)])),
    st.builds(
        OutcomeFact,
        product=st.sampled_from(["p", "q", "r"]),
        succeeded=st.booleans(),
        failure_reason=st.sampled_from(["", "x", "y"]),
    ),
)


@given(st.lists(facts, max_size=7), st.randoms(use_true_random=False))
def test_any_order_of_arrival_ends_the_same(
    drawn: list[OrderFact | OutcomeFact], random: object
) -> None:
    history = [(_at(i), fact) for i, fact in enumerate(drawn)]
    expected = product_request.fold(history)
    random.shuffle(history)  # type: ignore[attr-defined]  # hypothesis gives a Random
    assert product_request.fold(history) == expected
    assert isinstance(expected, ProductRequestState)
