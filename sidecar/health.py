"""grpc.health.v1 (https://github.com/grpc/grpc/blob/master/doc/health-checking.md), for any engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from grpc_health.v1 import health_pb2

from sidecar.errors import RpcError, StatusCode
from sidecar.rpc import NOTHING, CallContext, Service, Step, StreamMethod, UnaryMethod

SERVICE = "grpc.health.v1.Health"
_STATUS = health_pb2.HealthCheckResponse


class Health:
    """The state of each name, and those who watch it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._states = dict.fromkeys(names, int(_STATUS.NOT_SERVING))
        self._changed = asyncio.Event()
        self._closed = False

    def report(self, *, serving: bool) -> None:
        """Every name is serving from now on, or none."""
        state = int(_STATUS.SERVING if serving else _STATUS.NOT_SERVING)
        self._states = dict.fromkeys(self._states, state)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def close(self) -> None:
        """Nothing serves any more; watches end."""
        self._closed = True
        self.report(serving=False)

    def state(self, name: str) -> int | None:
        """The state of a name, None when it is unknown."""
        return self._states.get(name)

    async def watch(self, name: str) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state of a name now, and whenever it changes."""
        last: int | None = None
        while True:
            changed = self._changed
            state = self._states.get(name, int(_STATUS.SERVICE_UNKNOWN))
            if state != last:
                last = state
                yield _STATUS(status=state)
            if self._closed:
                return
            await changed.wait()


class _Watch:
    def __init__(self, health: Health) -> None:
        self._health = health
        self._begun = False

    def on_message(self, message: health_pb2.HealthCheckRequest) -> Step:
        if self._begun:
            raise RpcError(StatusCode.INVALID_ARGUMENT, "one request is watched")
        self._begun = True
        return Step(more=self._health.watch(message.service), done=True)

    def on_end(self) -> Step:
        return NOTHING

    def on_close(self) -> None:
        return


def health_service(health: Health) -> Service:
    """The service over `health`."""

    def check(request: health_pb2.HealthCheckRequest, _context: CallContext) -> health_pb2.HealthCheckResponse:
        state = health.state(request.service)
        if state is None:
            raise RpcError(StatusCode.NOT_FOUND, "the service is unknown")
        return _STATUS(status=state)

    return Service(
        SERVICE,
        (
            UnaryMethod("Check", health_pb2.HealthCheckRequest, check),
            StreamMethod("Watch", health_pb2.HealthCheckRequest, lambda _context: _Watch(health), lasting=True),
        ),
    )
