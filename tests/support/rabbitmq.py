"""Real brokers: a node for each test process, a virtual host for each test, or a whole node."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.provide import PrivateBroker, private_node

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def broker_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateBroker]:
    """The node that this test process shares; never stop, pause or wipe it."""
    with private_node(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture
def broker_url(broker_node: PrivateBroker) -> Iterator[str]:
    """URL of a virtual host that is empty at first and deleted after the test."""
    name = f"test-{next(_numbers)}"
    yield broker_node.add_vhost(name)
    broker_node.delete_vhost(name)


@pytest.fixture
def private_broker(tmp_path: Path) -> Iterator[PrivateBroker]:
    """A node of the test's own, running, to be stopped, killed, paused or wiped (5 s to start)."""
    with private_node(tmp_path / "rabbitmq") as node:
        yield node


@pytest.fixture
def metered_broker(tmp_path: Path) -> Iterator[PrivateBroker]:
    """A node of the test's own whose Prometheus plugin runs (5 s longer to stop)."""
    with private_node(tmp_path / "rabbitmq", metrics=True) as node:
        yield node
