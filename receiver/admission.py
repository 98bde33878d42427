"""From a request to a batch: who sends, from where, how much, in what form, under whose key.

The checks stand in the order of what they cost, and a stranger gets no further than the
signature: nothing of the body is parsed before it is verified.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from aiohttp import hdrs
from aiohttp.web import BaseRequest, RequestPayloadError

from receiver import signature
from receiver.batch import Batch, split
from receiver.body import Held, check_encoding, decode_body, read_body
from receiver.problems import Reason, Refusal
from receiver.sources import Source, client_address
from receiver.trace import TRACE_ENTROPY, new_traceparent
from shared.clock import Clock
from shared.config import ReceiverConfig
from shared.ids import new_id
from shared.networks import Network
from shared.tracing import is_traceparent

FORWARDED_FOR: Final = "X-Forwarded-For"
TRACEPARENT: Final = "traceparent"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Sources = Callable[[], Mapping[str, Source]]
"""Asked for every request, so that secrets can be exchanged while the receiver runs."""


class Admission:
    """Decides about requests; it keeps and publishes nothing."""

    def __init__(
        self,
        *,
        config: ReceiverConfig,
        sources: Sources,
        proxies: Sequence[Network],
        clock: Clock,
        sample_ratio: float = 0.0,
    ) -> None:
        """`sample_ratio`: the share of batches without a ``traceparent`` whose trace is sampled."""
        self._sample_ratio = sample_ratio
        self._config = config
        self._sources = sources
        self._proxies = proxies
        self._clock = clock

    def find(self, request: BaseRequest, name: str) -> Source | Refusal:
        """The source of this name, if it may send from where the request comes."""
        source = self._sources().get(name)
        if source is None:
            return Refusal(Reason.UNKNOWN_SOURCE, "no source of this name is configured")
        if source.networks:
            forwarded = request.headers.getall(FORWARDED_FOR, ())
            if not source.admits(client_address(request.remote, forwarded, self._proxies)):
                return Refusal(Reason.ADDRESS, "this source may not send from this address")
        return source

    async def admit(  # noqa: PLR0911 - a line of checks, each with its own refusal
        self, request: BaseRequest, name: str, held: Held
    ) -> Batch | Refusal:
        """The batch that a POST carries; without events when its body is empty."""
        source = self.find(request, name)
        if isinstance(source, Refusal):
            return source
        refusal = check_encoding(request)
        if refusal is not None:
            return refusal
        body = await self._read(request, held)
        if isinstance(body, Refusal):
            return body
        if not body:
            return self._batch(request, source, ())
        refusal = check_media_type(request)
        if refusal is not None:
            return refusal
        plain = decode_body(request, body, limit=self._config.max_body_bytes, held=held)
        if isinstance(plain, Refusal):
            return plain
        if source.signed and not is_signed(request, source, body, plain):
            return Refusal(Reason.BAD_SIGNATURE, f"{signature.HEADER} is missing or wrong")
        config = self._config
        events = split(plain, max_events=config.max_events, max_depth=config.max_depth)
        if isinstance(events, Refusal):
            return events
        return self._batch(request, source, events)

    async def _read(self, request: BaseRequest, held: Held) -> bytes | Refusal:
        limit = self._config.max_body_bytes
        expected = request.headers.get(hdrs.EXPECT)
        if expected is not None:
            if expected.lower() != "100-continue":
                return Refusal(Reason.EXPECTATION, "only 100-continue can be expected")
            if (request.content_length or 0) <= limit:
                await request.writer.write(_CONTINUE)
                request.writer.output_size = 0
        try:
            return await read_body(
                request, limit=limit, seconds=self._config.body_timeout, held=held
            )
        except RequestPayloadError:
            return Refusal(Reason.MALFORMED_REQUEST, "the framing of the body is broken")
        except ConnectionError:
            return Refusal(Reason.SENDER_LEFT, "the connection ended within the body")

    def _batch(self, request: BaseRequest, source: Source, events: tuple[bytes, ...]) -> Batch:
        given = request.headers.get(TRACEPARENT, "")
        return Batch(
            id=new_id(),
            source=source.name,
            received_at=self._clock.now(),
            traceparent=given
            if is_traceparent(given)
            else new_traceparent(os.urandom(TRACE_ENTROPY), sample_ratio=self._sample_ratio),
            events=events,
        )


def check_media_type(request: BaseRequest) -> Refusal | None:
    """Refuse a body that says it is not JSON; one that says nothing may be."""
    named = request.headers.get(hdrs.CONTENT_TYPE, "application/json")
    kind = named.partition(";")[0].strip().lower()
    if kind in ("application/json", "text/json") or (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        return None
    return Refusal(Reason.MEDIA_TYPE, "Content-Type must be application/json")


def is_signed(request: BaseRequest, source: Source, *forms: bytes) -> bool:
    """Whether the one signature fits the body, as it was sent or as it is when decoded.

    The source signs what it sends; a proxy in between may have compressed it.
    """
    given = request.headers.getall(signature.HEADER, ())
    return len(given) == 1 and any(
        signature.verify(form, given[0], source.keys) for form in dict.fromkeys(forms)
    )
