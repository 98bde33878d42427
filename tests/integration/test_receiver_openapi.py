"""The receiver does what its OpenAPI document says, whatever it is sent."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode

from shared.config import Secret, SourceConfig
from tests.support import receiver as support
from tests.support.http import SECRET

SOURCES = (
    SourceConfig(name="klavi", secrets=(Secret(SECRET),)),
    SourceConfig(name="open", require_signature=False),
)


@pytest.fixture(scope="module")
def document_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A receiver in a thread of its own, since schemathesis blocks."""
    folder = tmp_path_factory.mktemp("openapi")
    ready = threading.Event()
    state: dict[str, Any] = {}

    async def serve() -> None:
        state["loop"], state["stop"] = asyncio.get_running_loop(), asyncio.Event()
        config = support.settings(folder, sources=SOURCES)
        async with support.running(config, support.FakeBroker()) as receiver:
            state["port"] = receiver.port
            ready.set()
            await state["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    yield f"http://127.0.0.1:{state['port']}/openapi.json"
    state["loop"].call_soon_threadsafe(state["stop"].set)
    thread.join(30)


def check(case: schemathesis.Case) -> None:
    """Send the case to each kind of source, and judge the answers."""
    for source in ("klavi", "open", "nobody") if case.path_parameters else ("",):
        if source:
            case.path_parameters["source"] = source
        case.call_and_validate()


def check_all(document_url: str, mode: GenerationMode, *, examples: int) -> None:
    """Check every operation of the document with so many examples."""
    document = schemathesis.openapi.from_url(document_url)
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def checked(case: schemathesis.Case) -> None:
            check(case)

        checked()


MODES = pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)


@MODES
def test_it_does_what_its_document_says(document_url: str, mode: GenerationMode) -> None:
    check_all(document_url, mode, examples=15)


@pytest.mark.deep
@pytest.mark.timeout(900)
@MODES
def test_it_does_so_for_many_examples(document_url: str, mode: GenerationMode) -> None:
    check_all(document_url, mode, examples=500)


def test_the_document_is_valid_openapi(document_url: str) -> None:
    schemathesis.openapi.from_url(document_url).validate()
