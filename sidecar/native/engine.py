"""The engine: services on one address, from listening to the last call's end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import replace

from sidecar.native.connection import Connection
from sidecar.native.limits import Limits
from sidecar.rpc import Service


class NativeEngine:
    """Carries `services` over the native engine."""

    def __init__(self, services: Sequence[Service], *, max_message_bytes: int, limits: Limits | None = None) -> None:
        self._methods = {f"/{service.name}/{method.name}": method for service in services for method in service.methods}
        self._limits = replace(limits or Limits(), max_message=max_message_bytes)
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()

    async def start(self, listen: str, tls: ssl.SSLContext | None = None) -> int:
        """Serve on `unix:///path` or `host:port`. Returns the port (0 for a socket). Raises `OSError`."""
        loop = asyncio.get_running_loop()
        if listen.startswith("unix:"):
            path = listen.removeprefix("unix://") if listen.startswith("unix://") else listen.removeprefix("unix:")
            self._server = await loop.create_unix_server(self._connection, path, ssl=tls, backlog=1024)
            return 0
        host, _, port = listen.rpartition(":")
        self._server = await loop.create_server(self._connection, host.strip("[]"), int(port), ssl=tls, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    def _connection(self) -> Connection:
        connection = Connection(self._methods, self._limits, self._lost)
        self._connections.add(connection)
        return connection

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    async def stop(self, grace: float) -> None:
        """Take nothing new, give open calls `grace` seconds, then cut them."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        self._empty.clear()
        for connection in tuple(self._connections):
            connection.drain()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), grace)
        for connection in tuple(self._connections):
            connection.abort()
        # Aborted transports report their end on the next turn of the loop.
        await asyncio.sleep(0)
