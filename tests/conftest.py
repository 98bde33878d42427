"""Fixtures shared by every suite live in `tests/support`, one module per thing they stand for."""

pytest_plugins = ("tests.support.rabbitmq", "tests.support.stores")
