"""The listening socket: bound, guarded, and stopped without dropping what is in hand."""

import asyncio

from receiver.metrics import Metrics
from receiver.protocol import GuardedServer, Handler
from shared.config import ReceiverConfig

BACKLOG = 1_024


class Server:
    """Serves one handler on one port."""

    def __init__(self, handler: Handler, *, config: ReceiverConfig, metrics: Metrics) -> None:
        self._handler = handler
        self._config = config
        self._metrics = metrics
        self._guarded: GuardedServer | None = None
        self._listener: asyncio.Server | None = None
        self.port = config.port

    @property
    def listening(self) -> bool:
        """Whether new connections are taken."""
        return self._listener is not None

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._guarded.open if self._guarded is not None else 0

    async def start(self, *, shared_port: bool = False) -> None:
        """Bind and serve; `port` is the real one afterwards.

        With `shared_port`, other processes may listen on the same port and the kernel spreads
        new connections over all of them.

        Raises:
            OSError: the port cannot be bound.
        """
        guarded = GuardedServer(self._handler, config=self._config, metrics=self._metrics)
        self._guarded = guarded
        self._listener = await asyncio.get_running_loop().create_server(
            guarded,
            self._config.host,
            self._config.port,
            backlog=BACKLOG,
            reuse_port=shared_port or None,
        )
        self.port = self._listener.sockets[0].getsockname()[1]
        self._metrics.connections.set_function(lambda: self.connections)

    async def stop(self, *, grace: float) -> None:
        """Take no new connection or request; wait up to `grace` seconds for those in hand."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._guarded is not None:
            self._guarded.pre_shutdown()
            await self._guarded.shutdown(grace)
