"""The exporter that speaks OTLP over HTTP; imported only where it is wanted."""

import threading
from importlib.metadata import version
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from shared.tracing import CLOSE_TIMEOUT, Span, ids, known

_KINDS: Final = {
    "server": SpanKind.SERVER,
    "consumer": SpanKind.CONSUMER,
    "client": SpanKind.CLIENT,
}
_NANOSECONDS: Final = 1_000_000
_TIMEOUT: Final = 3


class OtlpExporter:
    """Hands spans to a collector from a thread of its own; when it cannot, they are dropped."""

    def __init__(self, endpoint: str, *, role: str) -> None:
        """`endpoint`: base URL of the collector, such as ``http://127.0.0.1:4318``."""
        release = version("correio")
        resource = Resource.create({
            "service.name": f"correio-{role.replace(' ', '-')}", "service.version": release,
        })  # fmt: skip
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        target = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_TIMEOUT)
        self._provider.add_span_processor(BatchSpanProcessor(target))
        self._tracer = self._provider.get_tracer("correio", release)

    def export(self, span: Span) -> None:
        """Take one span; see `shared.tracing.Exporter`."""
        trace_id, span_id = ids(span.traceparent)
        parent = SpanContext(
            trace_id, span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
        )
        made = self._tracer.start_span(
            span.name,
            context=set_span_in_context(NonRecordingSpan(parent)),
            kind=_KINDS[span.kind],
            attributes=known(span.attributes),
            start_time=span.began * _NANOSECONDS,
        )
        if span.failed:
            made.set_status(Status(StatusCode.ERROR))
        made.end(end_time=span.ended * _NANOSECONDS)

    def close(self) -> None:
        """Send what is left; see `shared.tracing.Exporter`.

        The library would wait for each of its batches in turn, and takes no limit for it.
        """
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_TIMEOUT)
