"""The last spans of a process that ends."""

import threading

import pytest

from shared import otel
from shared.otel import OtlpExporter


def test_a_collector_that_does_not_answer_keeps_no_process_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otel, "CLOSE_TIMEOUT", 0.01, raising=False)
    exporter = OtlpExporter("http://127.0.0.1:1", role="test")
    shutdown = exporter._provider.shutdown
    answers, ended = threading.Event(), threading.Event()

    def sends() -> None:
        answers.wait(10)
        shutdown()
        ended.set()

    monkeypatch.setattr(exporter._provider, "shutdown", sends)
    exporter.close()
    assert not ended.is_set()
    answers.set()
    assert ended.wait(10)
