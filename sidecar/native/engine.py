"""The engine: services on one address, from listening to the last call's end."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sidecar.ending import until_over
from sidecar.native.connection import Connection
from sidecar.native.limits import Limits
from sidecar.options import ServerOptions
from sidecar.rpc import Service
from sidecar.tls import TlsFiles

_BACKLOG = 1_024


class NativeEngine:
    """Carries `services` over the native engine."""

    def __init__(
        self,
        services: Sequence[Service],
        *,
        max_message_bytes: int,
        options: ServerOptions,
        limits: Limits | None = None,
    ) -> None:
        self._methods = {f"/{service.name}/{method.name}": method for service in services for method in service.methods}
        self._limits = replace(
            limits or Limits(),
            max_message=max_message_bytes,
            max_streams=options.max_concurrent_streams,
            keepalive_time=options.keepalive_time,
            keepalive_timeout=options.keepalive_timeout,
            max_connection_age=options.max_connection_age,
            max_connection_age_grace=options.max_connection_age_grace,
            client_name="" if options.tls is None else options.tls.client_name,
        )
        self._tls = options.tls
        self._tls_task: asyncio.Task[None] | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()

    async def start(self, listen: str) -> int:
        """Serve on `unix:///path` or `host:port`. Returns the port (0 for a socket).

        Raises `OSError` when the address cannot be bound, `ConfigError` when the TLS files cannot be used.
        """
        files = None if self._tls is None else TlsFiles(self._tls)
        secure = None if files is None else files.read().context
        if listen.startswith("unix:"):
            path = listen.removeprefix("unix:").removeprefix("//")
            self._servers = [await self._listen_unix(secure, path=path)]
            port = 0
        else:
            host, _, number = listen.rpartition(":")
            self._servers = [await self._listen_tcp(secure, host=host.strip("[]"), port=int(number))]
            port = int(self._servers[0].sockets[0].getsockname()[1])
        if self._tls is not None and files is not None:
            self._tls_task = asyncio.create_task(self._watch_tls(files, self._tls.check_every))
        return port

    async def _listen_tcp(self, secure: ssl.SSLContext | None, **where: Any) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(
            self._connection, backlog=_BACKLOG, ssl=secure, **self._handshake(secure), **where
        )

    async def _listen_unix(self, secure: ssl.SSLContext | None, **where: Any) -> asyncio.Server:
        if sys.version_info >= (3, 13):
            where["cleanup_socket"] = False  # `GrpcServer` does it; a renewed server must not
        return await asyncio.get_running_loop().create_unix_server(
            self._connection, backlog=_BACKLOG, ssl=secure, **self._handshake(secure), **where
        )

    def _handshake(self, secure: ssl.SSLContext | None) -> dict[str, Any]:
        return {} if secure is None else {"ssl_handshake_timeout": self._limits.handshake_timeout}

    async def _watch_tls(self, files: TlsFiles, every: float) -> None:
        """Take new files for new connections: a second server on the same sockets, then the first one's end.

        An SSL context cannot forget a client CA, so it is not changed but replaced. The sockets' queue is the kernel's:
        no connection is lost between the two.
        """
        while True:
            await asyncio.sleep(every)
            identity = files.read_if_changed()
            if identity is not None:
                await self._renew(identity.context)

    async def _renew(self, secure: ssl.SSLContext) -> None:
        before, self._servers = self._servers, []
        try:
            for listening in (one for server in before for one in server.sockets):
                sock = socket.socket(fileno=os.dup(listening.fileno()))
                listen = self._listen_unix if sock.family == socket.AF_UNIX else self._listen_tcp
                self._servers.append(await listen(secure, sock=sock))
        finally:
            for server in before:
                server.close()

    def _connection(self) -> Connection:
        # Not yet counted: a TLS handshake that fails is never reported.
        return Connection(self._methods, self._limits, self._connections.add, self._lost)

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def _works(self) -> bool:
        """Whether a call is open that has an end of its own."""
        return any(not call.lasting for connection in self._connections for call in connection.calls.values())

    async def stop(self, grace: float) -> None:
        """Take nothing new, give open calls `grace` seconds, then cut them."""
        if self._tls_task is not None:
            self._tls_task.cancel()
            await asyncio.gather(self._tls_task, return_exceptions=True)
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        self._empty.clear()
        for connection in tuple(self._connections):
            connection.drain()
        if self._connections:
            await until_over(self._works, self._empty, grace)
        for connection in tuple(self._connections):
            connection.abort()
        # Aborted transports report their end on the next turn of the loop.
        await asyncio.sleep(0)
