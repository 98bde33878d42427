"""Which event loop a test runs on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

BOTH = "test_callbacks_attempts"
"""Faults of connections look different on the loop that the processes run on: see them on both."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """asyncio's own loop for every test, uvloop as well where it matters."""
    factories = {"asyncio": asyncio.new_event_loop}
    return {**factories, "uvloop": uvloop.new_event_loop} if BOTH in item.nodeid else factories
