"""The admin port: health, readiness, metrics, status. Never the data plane, and nothing secret."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from headgate.settings import split_address
from sidecar.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Dependency:
    """One thing that requests need: its state in words, and whether we are ready in spite of it."""

    state: str
    ready: bool


@dataclass(frozen=True, slots=True)
class AdminSources:
    """Where the answers come from."""

    dependencies: Callable[[], Awaitable[Mapping[str, Dependency]]]
    metrics: Callable[[], bytes]
    status: Callable[[], Mapping[str, Any]]


class AdminServer:
    """Serves the admin endpoints on one address."""

    def __init__(self, address: str, sources: AdminSources) -> None:
        self._address = address
        self._sources = sources
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Bind and serve. Raises `ConfigError` when the address cannot be bound."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/status", self._status)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False)
        await self._runner.setup()
        host, port = split_address(self._address)
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                [
                    Problem(
                        "admin",
                        "",
                        f"cannot bind {self._address}: {error.strerror}",
                        "free it or choose another address",
                    )
                ]
            ) from error

    async def stop(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        dependencies = await self._sources.dependencies()
        ready = all(one.ready for one in dependencies.values())
        body = {"ready": ready, "dependencies": {name: one.state for name, one in dependencies.items()}}
        return _json(body, status=200 if ready else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self._sources.metrics(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _status(self, _request: web.Request) -> web.Response:
        return _json(self._sources.status())


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value) + b"\n", status=status, content_type="application/json")
