"""Where a broker comes from: the first way that works."""

from pathlib import Path

from deploy.local.rabbitmq import Node


def private_node(folder: Path) -> Node:
    """A node of our own, not started yet."""
    return Node(folder)
