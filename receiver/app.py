"""HTTP: every request gets its answer here."""

import orjson
from aiohttp import hdrs, web

from receiver import openapi
from receiver.admission import Admission
from receiver.batch import Batch
from receiver.body import Budget
from receiver.intake import Intake
from receiver.metrics import Metrics, Route
from receiver.problems import ALLOWED_METHODS, Reason, Refusal
from receiver.responses import accepted, found, options, refused
from shared.clock import Clock
from shared.config import ReceiverConfig
from shared.logs import LineWriter, get_logger
from shared.tracing import Span, is_sampled, record, trace_id

log = get_logger(__name__)
accepted_lines = LineWriter(
    __name__,
    "batch.accepted",
    ("batch_id", "source", "accepted", "outcome", "duration_ms", "trace_id"),
)


class App:
    """Answers requests. A 200 with a count means that so many events are durable."""

    def __init__(
        self,
        *,
        config: ReceiverConfig,
        admission: Admission,
        intake: Intake,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._max_in_flight = config.max_in_flight
        self._admission = admission
        self._intake = intake
        self._metrics = metrics
        self._clock = clock
        self._budget = Budget(config.max_buffered_bytes)
        self._document = orjson.dumps(openapi.document(config))
        self.in_flight = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to any well-formed request."""
        path = request.path
        if path == openapi.PATH:
            return self._describe(request)
        name = path.removeprefix(openapi.WEBHOOKS)
        if name == path or not name or "/" in name:
            return self._refuse(Refusal(Reason.NOT_FOUND, "nothing is served at this path"))
        match request.method:
            case hdrs.METH_POST:
                return await self._receive(request, name)
            case hdrs.METH_GET | hdrs.METH_HEAD:
                source = self._admission.find(request, name)
                return self._refuse(source) if isinstance(source, Refusal) else accepted(request, 0)
            case hdrs.METH_OPTIONS:
                return options(ALLOWED_METHODS)
            case _:
                return self._refuse_method(ALLOWED_METHODS)

    def _describe(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.method:
            case hdrs.METH_GET | hdrs.METH_HEAD:
                return found(self._document)
            case hdrs.METH_OPTIONS:
                return options(openapi.ALLOWED_METHODS)
            case _:
                return self._refuse_method(openapi.ALLOWED_METHODS)

    async def _receive(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        began = self._clock.monotonic()
        with self._budget.hold() as held:
            batch = await self._admission.admit(request, name, held)
            if isinstance(batch, Refusal):
                known = "" if batch.reason is Reason.UNKNOWN_SOURCE else name
                return self._refuse_batch(batch, began, source=known)
            if not batch.events:
                return accepted(request, 0)
            if self.in_flight >= self._max_in_flight:
                refusal = Refusal(Reason.OVERLOADED, "too many batches at once")
                return self._refuse_batch(refusal, began, source=batch.source)
            self.in_flight += 1
            try:
                route = await self._intake.accept(batch)
            finally:
                self.in_flight -= 1
        if isinstance(route, Refusal):
            return self._refuse_batch(route, began, source=batch.source)
        count = len(batch.events)
        self._metrics.accepted(batch.source, route, count)
        duration = self._observe(began)
        accepted_lines.add(
            batch.id, batch.source, count, route.value, duration, trace_id(batch.traceparent)
        )
        if is_sampled(batch.traceparent):
            _trace(batch, route, duration)
        return accepted(request, count)

    def _refuse(self, refusal: Refusal, *, allowed: str | None = None) -> web.StreamResponse:
        """The answer to a request that carries no batch and is not accepted."""
        self._metrics.refused(refusal.reason)
        log.info("request.refused", reason=refusal.reason.value, status=refusal.status)
        return refused(refusal, allowed=allowed)

    def _refuse_method(self, allowed: str) -> web.StreamResponse:
        return self._refuse(Refusal(Reason.METHOD, f"allowed here: {allowed}"), allowed=allowed)

    def _refuse_batch(self, refusal: Refusal, began: float, *, source: str) -> web.StreamResponse:
        """The answer to a batch that is not accepted; `source` is empty if it is unknown."""
        self._metrics.refused(refusal.reason, source=source)
        log.info(
            "batch.refused",
            source=source,
            reason=refusal.reason.value,
            status=refusal.status,
            duration_ms=self._observe(began),
        )
        return refused(refusal)

    def _observe(self, began: float) -> float:
        """Record how long a batch took; returns it in milliseconds."""
        seconds = self._clock.monotonic() - began
        self._metrics.answer_seconds.observe(seconds)
        return round(seconds * 1000, 1)


def _trace(batch: Batch, route: Route, duration: float) -> None:
    """Tell of a batch accepted after `duration` milliseconds."""
    record(Span(
        "receive batch",
        kind="server",
        traceparent=batch.traceparent,
        began=batch.received_at,
        ended=batch.received_at + round(duration),
        attributes={
            "batch_id": batch.id, "source": batch.source, "events": len(batch.events),
            "outcome": route.value,
        },
    ))  # fmt: skip
