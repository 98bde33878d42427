import pytest

from receiver.trace import TRACE_ENTROPY, new_traceparent
from shared.tracing import is_traceparent

VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_new_one_is_valid_and_made_of_the_entropy() -> None:
    made = new_traceparent(bytes(range(1, TRACE_ENTROPY + 1)))
    assert made == "00-0102030405060708090a0b0c0d0e0f10-1112131415161718-00"
    assert is_traceparent(made)


def test_the_trace_id_decides_which_are_sampled() -> None:
    made = [new_traceparent(bytes([n] * TRACE_ENTROPY), sample_ratio=0.25) for n in range(1, 256)]
    assert sum(one.endswith("-01") for one in made) == 63
    assert all(map(is_traceparent, made))


@pytest.mark.parametrize(
    "text",
    [
        "",
        VALID.upper(),
        VALID + "-00",
        VALID + "\n",
        "01" + VALID[2:],
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
    ],
)
def test_what_others_would_not_accept_is_invalid(text: str) -> None:
    assert is_traceparent(VALID)
    assert not is_traceparent(text)
