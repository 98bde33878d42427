"""Where a broker comes from: the first way that works.

1. the one named by the configuration, if it answers;
2. a private node of an installed ``rabbitmq-server``;
3. a private node in a container, if an engine answers;
4. a private node of the distribution's package, installed where that is permitted.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import aio_pika
from aiormq.exceptions import AMQPError

from deploy.local.container import ContainerNode, find_engine
from deploy.local.install import install_rabbitmq, may_install
from deploy.local.rabbitmq import SCRIPTS_VARIABLE, BrokerError, Node, find_scripts

HELP = f"""\
No RabbitMQ can be had here. Do one of these, then try again:
  - install it, for example: sudo apt-get install rabbitmq-server, or: brew install rabbitmq
  - start a container engine (docker or podman)
  - set CORREIO_BROKER__URL to a broker that answers, such as amqp://user:password@host:5672/
  - set {SCRIPTS_VARIABLE} to the folder of rabbitmq-server and rabbitmqctl"""

PrivateBroker = Node | ContainerNode


class NamedBroker:
    """A broker that others run: it is neither started nor stopped."""

    origin = "the broker named by CORREIO_BROKER__URL"
    metrics_url = ""

    def __init__(self, url: str) -> None:
        self.url = url

    def start(self) -> None:
        """It runs already."""

    def stop(self) -> None:
        """It is not ours to end."""


Broker = NamedBroker | PrivateBroker


def find_broker(
    folder: Path,
    *,
    named: str | None = None,
    metrics: bool = False,
    say: Callable[[str], None] = print,
) -> Broker:
    """The broker to use, not started yet.

    Args:
        folder: where a private node keeps everything of its own.
        named: URL that the configuration gives, if it gives one.
        metrics: whether a private node's Prometheus plugin is to run.
        say: is told what takes long or is not as expected.

    Raises:
        BrokerError: there is none; the message says what to do.
    """
    if named:
        fault = asyncio.run(_fault_of(named))
        if fault is None:
            return NamedBroker(named)
        say(f"The broker named by the configuration does not answer ({fault}).")
    return private_node(folder, metrics=metrics, say=say)


def private_node(
    folder: Path, *, metrics: bool = False, say: Callable[[str], None] = print
) -> PrivateBroker:
    """A private node, not started yet; with `metrics`, its Prometheus plugin runs too.

    Raises:
        BrokerError: there is none; the message says what to do.
    """
    scripts = find_scripts()
    if scripts is not None:
        return Node(folder, scripts=scripts, metrics=metrics)
    engine = find_engine()
    if engine is not None:
        return ContainerNode(folder, engine=engine)
    if not may_install():
        raise BrokerError(HELP)
    say("Installing rabbitmq-server from the distribution (its service is not started) …")
    install_rabbitmq()
    return Node(folder, metrics=metrics)


async def _fault_of(url: str) -> str | None:
    """Why the broker at `url` cannot be used; None when it can."""
    try:
        connection = await aio_pika.connect(url, timeout=5)
    except (OSError, TimeoutError, ValueError, AMQPError) as error:
        return type(error).__name__
    await connection.close()
    return None
