"""The life cycle of one gRPC server: services, health and reflection on one address.

    start() -> serving -> not_serving() -> stop(grace)

Health (grpc.health.v1) answers for every service by its full name and for the server as a whole (""):
SERVING from `start`, NOT_SERVING from `not_serving` on, so that balancers turn away before calls are cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sidecar.errors import ConfigError, Problem
from sidecar.grpcio_engine import generic_handler
from sidecar.rpc import Service

DEFAULT_MAX_MESSAGE_BYTES = 4 * 1024 * 1024


class GrpcServer:
    """Serves `services` on `listen` (`unix:///path` or `host:port`; port 0 takes a free one).

    `max_message_bytes` bounds one received message. `health_names` adds names that the health service
    answers for besides the services' own.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        listen: str,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        health_names: Sequence[str] = (),
    ) -> None:
        self._services = tuple(services)
        self._listen = listen
        self._max_message_bytes = max_message_bytes
        self._health_names = ("", *health_names, *(service.name for service in services))
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self.port = 0

    @property
    def address(self) -> str:
        """Where a client connects to: the `listen` address with the port that was really taken."""
        if self._listen.startswith("unix:"):
            return self._listen
        return f"{self._listen.rpartition(':')[0]}:{self.port}"

    async def start(self) -> None:
        """Bind and serve. Raises `ConfigError` when the address cannot be bound."""
        if self._listen.startswith("unix:"):
            Path(_socket_path(self._listen)).unlink(missing_ok=True)
        # so_reuseport off: a second server on the same port must be an error, not a silent split of calls.
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ]
        )
        server.add_generic_rpc_handlers(tuple(generic_handler(service) for service in self._services))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [service.name for service in self._services]
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection([*names, health_name, reflection.SERVICE_NAME], server)
        try:
            self.port = server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise ConfigError(
                [
                    Problem(
                        "listen",
                        "",
                        f"cannot bind {self._listen}: {error}",
                        "free it or choose another address",
                    )
                ]
            ) from error
        await server.start()
        self._server = server
        await self._report(health_pb2.HealthCheckResponse.SERVING)

    async def not_serving(self) -> None:
        """Tell health checkers to turn away; calls still run."""
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give running ones `grace` seconds, then cut them. Safe to call twice."""
        if self._server is None:
            return
        server, self._server = self._server, None
        await self.not_serving()
        await server.stop(grace)
        if self._listen.startswith("unix:"):
            with contextlib.suppress(OSError):
                Path(_socket_path(self._listen)).unlink()

    async def wait(self) -> None:
        """Return when the server has stopped."""
        if self._server is not None:
            await self._server.wait_for_termination()

    async def _report(self, status: int) -> None:
        for name in self._health_names:
            await self._health.set(name, status)


def _socket_path(listen: str) -> str:
    return listen.removeprefix("unix://") if listen.startswith("unix://") else listen.removeprefix("unix:")
