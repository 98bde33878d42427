import orjson
import pytest

from shared.domain.keys import AggregateKey
from shared.store.rows import Delivery, DeliveryState
from worker.callbacks.payload import body_of


def delivery(at: int, *, attempts: int = 0) -> Delivery:
    return Delivery(
        id="d", endpoint="crm", type="consent.authorised", state=DeliveryState.RETRYING,
        due_at=at + attempts, attempts=attempts, transition_at=at,
        data=orjson.dumps({"id": "c", "name": "João", "version": 7}),
        aggregate=AggregateKey("consent", "app", "c"), version=7, traceparent="t" * attempts,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (1_656_187_697_848, "2022-06-25T20:08:17.848Z"),
        (1_656_187_697_000, "2022-06-25T20:08:17.000Z"),
        (0, "1970-01-01T00:00:00.000Z"),
    ],
)
def test_a_body_is_type_timestamp_and_data_in_that_order(at: int, text: str) -> None:
    body = body_of(delivery(at))
    assert list(orjson.loads(body)) == ["type", "timestamp", "data"]
    assert orjson.loads(body) == {
        "type": "consent.authorised",
        "timestamp": text,
        "data": {"id": "c", "name": "João", "version": 7},
    }


def test_every_attempt_has_the_same_bytes() -> None:
    assert body_of(delivery(5)) == body_of(delivery(5, attempts=4))
