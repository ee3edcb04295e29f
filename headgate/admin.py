"""The admin port: health, readiness, metrics, status. Never the data plane, and nothing secret.

`probes` is a second address for whoever may look but not touch: health, readiness and metrics alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from headgate.caching import Purged
from headgate.settings import Settings, split_address
from sidecar import unix_socket
from sidecar.errors import ConfigError, Problem

_NO_CACHE = {"error": "no model has a cache"}


@dataclass(frozen=True, slots=True)
class Dependency:
    """One thing that requests need: its state in words, and whether we are ready in spite of it."""

    state: str
    ready: bool


@dataclass(frozen=True, slots=True)
class AdminSources:
    """Where the answers come from."""

    dependencies: Callable[[], Awaitable[Mapping[str, Dependency]]]
    metrics: Callable[[], Awaitable[bytes]]
    status: Callable[[], Awaitable[Mapping[str, Any]]]
    report: Callable[[], Awaitable[bytes]] | None = None  # what a worker tells the process above it (`/report`)
    purge: Callable[[bytes], Awaitable[Purged]] | None = None  # forget kept answers, where there is a cache


class AdminServer:
    """Serves the admin endpoints on one address, or with `probes` only what changes and tells nothing of the users."""

    def __init__(self, address: str, sources: AdminSources, *, probes: bool = False) -> None:
        self._address = address
        self._sources = sources
        self._probes = probes
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Bind and serve. Raises `ConfigError` when the address cannot be bound."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        if not self._probes:
            application.router.add_get("/status", self._status)
            application.router.add_get("/cache", self._cache)
            application.router.add_post("/cache/purge", self._purge)
            if self._sources.report is not None:
                application.router.add_get("/report", self._report)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False)
        await self._runner.setup()
        try:
            await self._site(self._runner).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                [
                    Problem(
                        "probes" if self._probes else "admin",
                        "",
                        f"cannot bind {self._address}: {error.strerror or error}",
                        "free it or choose another address",
                    )
                ]
            ) from error

    def _site(self, runner: web.AppRunner) -> web.BaseSite:
        if self._address.startswith("unix://"):
            path = Path(self._address.removeprefix("unix://"))
            unix_socket.take(path)
            return web.UnixSite(runner, str(path))
        host, port = split_address(self._address)
        return web.TCPSite(runner, host, port)

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
            body=await self._sources.metrics(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _status(self, _request: web.Request) -> web.Response:
        return _json(await self._sources.status())

    async def _cache(self, _request: web.Request) -> web.Response:
        shown = (await self._sources.status()).get("cache")
        return _json(_NO_CACHE, status=404) if shown is None else _json(shown)

    async def _purge(self, request: web.Request) -> web.Response:
        # A page in somebody's browser cannot send JSON to another origin: it would have to ask us first.
        if request.content_type != "application/json":
            return _json({"error": "send application/json"}, status=415)
        if self._sources.purge is None:
            return _json(_NO_CACHE, status=404)
        purged = await self._sources.purge(await request.read())
        return _json(purged.body, status=purged.status)

    async def _report(self, _request: web.Request) -> web.Response:
        assert self._sources.report is not None
        return web.Response(body=await self._sources.report(), content_type="application/json")


def admin_servers(settings: Settings, sources: AdminSources) -> list[AdminServer]:
    """The admin port, and the one for probes where there is one."""
    found = [AdminServer(settings.admin, sources)]
    return [*found, AdminServer(settings.probes, sources, probes=True)] if settings.probes else found


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value) + b"\n", status=status, content_type="application/json")
