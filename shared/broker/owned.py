"""A connection that is closed by whoever opened it, and by nobody else."""

from aio_pika import Connection


class OwnedConnection(Connection):
    """Not closed by the garbage collector.

    aio-pika would have a connection closed when it is collected, which happens at any time: one
    that never came to be would then be closed where no loop runs.
    """

    def __del__(self) -> None:
        """Do nothing."""
