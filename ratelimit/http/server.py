"""An HTTP server on one address: paths and who answers them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from aiohttp import web

from sidecar.errors import ConfigError, Problem

Answer: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY_BYTES = 1024 * 1024
_SHUTDOWN_SECONDS = 1.0  # for requests that are being answered


class HttpServer:
    """Serves `paths`, by any method, on `address` (`host:port`; port 0 takes a free one).

    `name` is the variable that the address comes from; an empty address wants no server. A path that nobody answers is
    not found.
    """

    def __init__(self, name: str, address: str, paths: Mapping[str, Answer]) -> None:
        self.name = name
        self._host, _, port = address.rpartition(":")
        self._port = int(port or 0)
        self._paths = paths
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def wanted(self) -> bool:
        """Whether there is an address to serve on."""
        return bool(self._host)

    @property
    def address(self) -> str:
        """The address with the port that was really taken."""
        return f"{self._host}:{self.port}"

    async def start(self) -> None:
        """Bind and serve. Raises `ConfigError` when the address cannot be bound."""
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        for path, answer in self._paths.items():
            application.router.add_route("*", path, answer)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        site = web.TCPSite(runner, self._host.strip("[]"), self._port)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            message = f"cannot bind {self._host}:{self._port}: {error.strerror or error}"
            raise ConfigError([Problem(self.name, "", message, "free it or choose another address")]) from error
        self._runner = runner
        self.port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop serving. Safe to call twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
