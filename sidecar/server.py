"""The life cycle of one gRPC server: services, health and reflection on one address, over either engine.

    start() -> serving -> not_serving() -> stop(grace)

Health (grpc.health.v1) answers for every service by its full name and for the server as a whole (""):
SERVING from `start`, NOT_SERVING from `not_serving` on, so that balancers turn away before calls are cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sidecar import unix_socket
from sidecar.errors import ConfigError, Problem
from sidecar.grpcio_engine import GrpcioEngine
from sidecar.health import Health, health_service
from sidecar.native.engine import NativeEngine
from sidecar.options import ServerOptions
from sidecar.reflection import reflection_service
from sidecar.rpc import Service

DEFAULT_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
Engine = Literal["native", "grpcio"]


class GrpcServer:
    """Serves `services` on `listen` (`unix:///path` or `host:port`; port 0 takes a free one).

    `engine` carries them: `grpcio` (grpc.aio) or `native` (our own). `max_message_bytes` bounds one received message.
    `options` are TLS, connection age, keepalive and the number of streams. `health_names` adds names that the health
    service answers for besides the services' own. Without `ready` it is NOT_SERVING until `report` says otherwise.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        listen: str,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        health_names: Sequence[str] = (),
        engine: Engine = "native",
        options: ServerOptions | None = None,
        ready: bool = True,
    ) -> None:
        self._listen = listen
        self._ready = ready
        self._health = Health(("", *health_names, *(service.name for service in services)))
        health = health_service(self._health)
        everything = (*services, health, reflection_service([service.name for service in (*services, health)]))
        made = NativeEngine if engine == "native" else GrpcioEngine
        self._engine: NativeEngine | GrpcioEngine = made(
            everything, max_message_bytes=max_message_bytes, options=options or ServerOptions()
        )
        self._stopped = asyncio.Event()
        self._running = False
        self.port = 0
        self._mark: unix_socket.Mark | None = None

    @property
    def address(self) -> str:
        """Where a client connects to: the `listen` address with the port that was really taken."""
        if self._listen.startswith("unix:"):
            return self._listen
        return f"{self._listen.rpartition(':')[0]}:{self.port}"

    async def start(self) -> None:
        """Bind and serve. Raises `ConfigError` when the address cannot be bound, or a TLS file cannot be used."""
        try:
            if self._listen.startswith("unix:"):
                unix_socket.take(self._path)
            self.port = await self._engine.start(self._listen)
            if self._listen.startswith("unix:"):
                self._mark = unix_socket.mark(self._path)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                [Problem("listen", "", f"cannot bind {self._listen}: {error}", "free it or choose another address")]
            ) from error
        self._running = True
        self._health.report(serving=self._ready)

    def report(self, *, serving: bool) -> None:
        """Tell health checkers whether calls are welcome, now or (before `start`) from then on."""
        self._ready = serving
        if self._running:
            self._health.report(serving=serving)

    async def not_serving(self) -> None:
        """Tell health checkers to turn away; calls still run."""
        self.report(serving=False)

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give running ones `grace` seconds, then cut them. Safe to call twice.

        A unix socket goes with it, unless another server has taken its path meanwhile (gRPC's own engine never looks).
        """
        if not self._running:
            return
        self._running = False
        self._health.close()
        await self._engine.stop(grace)
        if self._listen.startswith("unix:"):
            unix_socket.leave(self._path, self._mark)
        self._stopped.set()

    async def wait(self) -> None:
        """Return when the server has stopped."""
        await self._stopped.wait()

    @property
    def _path(self) -> Path:
        return Path(self._listen.removeprefix("unix:").removeprefix("//"))
