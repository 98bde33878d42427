"""What the receiver answers to well-formed requests, over a raw socket."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from receiver.service import Receiver
from receiver.signature import HEADER, sign
from shared.broker import headers as names
from shared.broker import topology
from shared.config import Secret, SourceConfig
from tests.support.http import PATH, PATIENCE, SECRET, ask, connected, post, request
from tests.support.receiver import FakeBroker, running, settings

BATCH = b'[{"eventId":"e-1","n":1.0},{"eventID":"e-2"},7]'
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
async def receiver(tmp_path: Path, broker: FakeBroker) -> AsyncIterator[Receiver]:
    sources = (
        SourceConfig(name="klavi", secrets=(Secret("old"), Secret(SECRET))),
        SourceConfig(name="open", require_signature=False),
        SourceConfig(name="far", secrets=(Secret(SECRET),), allowed_networks=("18.231.92.86",)),
    )
    config = settings(
        tmp_path / "spool",
        sources=sources,
        max_body_bytes=20_000,
        max_events=100,
        trusted_proxies=("127.0.0.1",),
    )
    async with running(config, broker) as started:
        yield started


async def test_one_message_per_event_with_its_own_bytes_and_headers(
    receiver: Receiver, broker: FakeBroker
) -> None:
    answer = await post(receiver, BATCH, traceparent=TRACEPARENT)
    assert (answer.status, answer.body) == (200, b'{"accepted":3}')
    assert answer.headers["content-type"] == "application/json"
    assert broker.bodies == [b'{"eventId":"e-1","n":1.0}', b'{"eventID":"e-2"}', b"7"]
    assert [message.headers[names.EVENT_ID] for message in broker.confirmed] == ["e-1", "e-2", ""]
    first = broker.confirmed[0]
    assert (first.exchange, first.routing_key) == (topology.EVENTS, topology.EVENTS)
    assert first.headers[names.SOURCE] == "klavi"
    assert first.headers[names.TRACEPARENT] == TRACEPARENT
    assert isinstance(first.headers[names.RECEIVED_AT], int)
    assert len({message.headers[names.BATCH_ID] for message in broker.confirmed}) == 1


async def test_a_traceparent_is_begun_when_none_or_a_bad_one_came(
    receiver: Receiver, broker: FakeBroker
) -> None:
    await post(receiver, b"[1]")
    await post(receiver, b"[2]", traceparent="00-nonsense")
    begun = [message.headers[names.TRACEPARENT] for message in broker.confirmed]
    assert len(set(begun)) == 2
    assert all(text.startswith("00-") and text.endswith("-00") for text in begun)


async def test_one_bare_object_is_one_event(receiver: Receiver, broker: FakeBroker) -> None:
    assert (await post(receiver, b' {"a":1} ')).json == {"accepted": 1}
    assert broker.bodies == [b'{"a":1}']


@pytest.mark.parametrize(
    "data",
    [
        request(b""),
        request(b"", X_Klavi_Signature=None, Content_Type=None),
        request(b"", Content_Length=None, Transfer_Encoding="chunked") + b"0\r\n\r\n",
        request(b"[]"),
        request(method="GET", X_Klavi_Signature=None),
    ],
)
async def test_connectivity_tests_change_nothing(
    receiver: Receiver, broker: FakeBroker, data: bytes
) -> None:
    answer = await ask(receiver, data)
    assert (answer.status, answer.json) == (200, {"accepted": 0})
    assert broker.attempts == 0


async def test_head_and_options(receiver: Receiver) -> None:
    head = await ask(receiver, request(method="HEAD"), body=False)
    assert head.status == 200
    options = await ask(receiver, request(method="OPTIONS"))
    assert (options.status, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
async def test_other_methods_are_405(receiver: Receiver, method: str) -> None:
    answer = await ask(receiver, request(method=method))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    document = await ask(receiver, request(method=method, path="/openapi.json"))
    assert (document.status, document.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    ("data", "status", "kind"),
    [
        (request(BATCH, X_Klavi_Signature=None), 401, "bad-signature"),
        (request(BATCH, X_Klavi_Signature="0" * 64), 401, "bad-signature"),
        (request(BATCH, X_Klavi_Signature=sign(BATCH, b"other")), 401, "bad-signature"),
        (request(b"nonsense", X_Klavi_Signature="0" * 64), 401, "bad-signature"),
        (request(BATCH, path="/v1/webhooks/nobody"), 404, "unknown-source"),
        (request(BATCH, path="/v1/webhooks/"), 404, "not-found"),
        (request(BATCH, path=PATH + "/more"), 404, "not-found"),
        (request(BATCH, path=PATH + "%2Fmore"), 404, "not-found"),
        (request(BATCH, path="/"), 404, "not-found"),
        (request(BATCH, path="/v1/webhooks/far"), 403, "address-not-allowed"),
        (request(method="GET", path="/v1/webhooks/far"), 403, "address-not-allowed"),
        (request(BATCH, Content_Type="text/plain"), 415, "unsupported-media-type"),
        (request(b"[" + b"1," * 100 + b"1]"), 413, "too-many-events"),
        (request(b"[1]", Expect="miracles"), 417, "expectation-failed"),
    ],
)
async def test_refusals_are_problem_documents(
    receiver: Receiver, broker: FakeBroker, data: bytes, status: int, kind: str
) -> None:
    answer = await ask(receiver, data)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["type"] == f"urn:correio:problem:{kind}"
    assert answer.json["status"] == status
    assert broker.attempts == 0


async def test_two_signatures_are_none(receiver: Receiver) -> None:
    twice = f"\r\n{HEADER}: {sign(BATCH, SECRET.encode())}\r\n\r\n".encode()
    assert (await ask(receiver, request(BATCH).replace(b"\r\n\r\n", twice, 1))).status == 401


async def test_every_secret_of_a_source_is_live(receiver: Receiver) -> None:
    for secret in ("old", SECRET):
        answer = await post(receiver, BATCH, X_Klavi_Signature=sign(BATCH, secret.encode()))
        assert answer.status == 200


async def test_a_source_may_go_without_signature(receiver: Receiver) -> None:
    data = request(BATCH, path="/v1/webhooks/open", X_Klavi_Signature=None)
    assert (await ask(receiver, data)).status == 200


async def test_behind_a_trusted_proxy_the_forwarded_address_counts(receiver: Receiver) -> None:
    allowed = request(BATCH, path="/v1/webhooks/far", X_Forwarded_For="9.9.9.9, 18.231.92.86")
    assert (await ask(receiver, allowed)).status == 200
    made_up = request(BATCH, path="/v1/webhooks/far", X_Forwarded_For="18.231.92.86, 9.9.9.9")
    assert (await ask(receiver, made_up)).status == 403


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", None,
                                  "application/cloudevents+json", "TEXT/JSON"])  # fmt: skip
async def test_json_by_its_names(receiver: Receiver, kind: str | None) -> None:
    assert (await post(receiver, BATCH, Content_Type=kind)).status == 200


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("X-GZIP", gzip.compress)],
)
async def test_an_encoded_body_may_be_signed_before_or_after_encoding(
    receiver: Receiver, broker: FakeBroker, encoding: str, encode: Any
) -> None:
    sent = encode(BATCH)
    for signed in (BATCH, sent):
        signature = sign(signed, SECRET.encode())
        answer = await post(receiver, sent, Content_Encoding=encoding, X_Klavi_Signature=signature)
        assert answer.json == {"accepted": 3}
    assert broker.bodies[0] == b'{"eventId":"e-1","n":1.0}'


async def test_a_chunked_body_is_put_together(receiver: Receiver, broker: FakeBroker) -> None:
    head = request(b"", Content_Length=None, Transfer_Encoding="chunked",
                   X_Klavi_Signature=sign(b"[1,2]", SECRET.encode()))  # fmt: skip
    answer = await ask(receiver, head + b"2\r\n[1\r\n3\r\n,2]\r\n0\r\n\r\n")
    assert answer.json == {"accepted": 2}
    assert broker.bodies == [b"1", b"2"]


async def test_a_client_may_wait_for_permission_to_send(receiver: Receiver) -> None:
    data = request(BATCH, Expect="100-continue")
    async with connected(receiver) as client:
        await client.send(data.removesuffix(BATCH))
        assert (await client.answer(body=False)).status == 100
        await client.send(BATCH)
        assert (await client.answer()).json == {"accepted": 3}


async def test_a_connection_serves_many_requests_also_pipelined(
    receiver: Receiver, broker: FakeBroker
) -> None:
    async with connected(receiver) as client:
        await client.send(
            request(b"[1]") + request(b"[2,3]") + request(b"{}", X_Klavi_Signature="")
        )
        assert [(await client.answer()).status for _ in range(3)] == [200, 200, 401]
        await client.send(request(b"[4]"))
        assert (await client.answer()).status == 200
    assert broker.bodies == [b"1", b"2", b"3", b"4"]


async def test_the_document_is_served(receiver: Receiver) -> None:
    answer = await ask(receiver, request(method="GET", path="/openapi.json"))
    assert answer.status == 200
    assert answer.json["openapi"].startswith("3.1")
    assert (
        await ask(receiver, request(method="HEAD", path="/openapi.json"), body=False)
    ).status == 200
    assert (await ask(receiver, request(method="OPTIONS", path="/openapi.json"))).status == 204


async def test_one_line_per_batch_and_nothing_personal_in_it(
    receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    body = json.dumps([{"personalTaxId": "12345678901", "eventId": "e"}]).encode()
    await post(receiver, body)
    await post(receiver, body, X_Klavi_Signature="0")
    said = capfd.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if "batch." in line]
    assert ["batch.accepted" in lines[0], "batch.refused" in lines[1]] == [True, True]
    assert len(lines) == 2
    assert not any(word in said.out + said.err for word in ("12345678901", "127.0.0.1:", SECRET))


async def test_stopping_finishes_what_is_in_hand(tmp_path: Path, broker: FakeBroker) -> None:
    broker.frozen = True
    async with running(settings(tmp_path, publish_timeout=0.3), broker) as receiver:
        client = asyncio.create_task(post(receiver, BATCH))
        await broker.reached(lambda: broker.attempts == 1)
    assert (await client).json == {"accepted": 3}


async def test_figures_are_told_by_source_and_outcome_and_never_by_a_strangers_word(
    receiver: Receiver,
) -> None:
    registry = receiver.metrics.registry

    def figure(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"correio_receiver_{name}", labels)

    assert figure("events_total", source="far", route="spool") == 0
    await post(receiver, BATCH)
    assert (await ask(receiver, request(b"not JSON"))).status == 400
    elsewhere = request(BATCH).replace(PATH.encode(), b"/v1/webhooks/stranger", 1)
    assert (await ask(receiver, elsewhere)).status == 404
    assert figure("batches_total", source="klavi", route="broker") == 1
    assert figure("events_total", source="klavi", route="broker") == 3
    assert figure("confirm_seconds_count") == 1
    refused = {
        (sample.labels["source"], sample.labels["reason"])
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "correio_receiver_refused_total" and sample.value
    }
    assert refused == {("klavi", "not-json"), ("", "unknown-source")}


async def test_an_accepted_batch_is_answered_as_the_connection_asks(receiver: Receiver) -> None:
    async with connected(receiver) as client:
        for _ in range(2):
            await client.send(request(b"[1]"))
            kept = await client.answer()
            assert (kept.status, kept.body) == (200, b'{"accepted":1}')
            assert "connection" not in kept.headers
        await client.send(request(b"[1]", Connection="close"))
        last = await client.answer()
        assert await client.ended() == b""
    older = request(b"[1]").replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
    async with connected(receiver) as client:
        await client.send(older)
        oldest = await client.answer()
        assert await client.ended() == b""
    assert (last.status, last.body, last.headers["connection"]) == (200, kept.body, "close")
    assert (oldest.status, oldest.body) == (200, kept.body)
    dates = [parsedate_to_datetime(one.headers.pop("date")) for one in (kept, last, oldest)]
    assert (max(dates) - min(dates)).total_seconds() < PATIENCE
    last.headers.pop("connection")
    assert kept.headers == last.headers == oldest.headers
