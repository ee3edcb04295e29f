"""Talks to Envoy's own admin interface over its unix socket."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import aiohttp

from headgate.render.layout import STAT_PREFIX

_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)


class EnvoyAdmin:
    """A client of Envoy's admin interface. Methods that ask return None when Envoy does not answer."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> EnvoyAdmin:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections to Envoy."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=str(self._socket)), timeout=_TIMEOUT
            )
        return self._session

    async def state(self) -> str | None:
        """Envoy's server state (`LIVE`, `DRAINING`, `PRE_INITIALIZING`, `INITIALIZING`)."""
        try:
            async with self._client().get("http://envoy/ready") as response:
                return (await response.text()).strip()
        except _FAILURES:
            return None

    async def post(self, path: str) -> bool:
        """Give a command, for example `/healthcheck/fail`. Returns whether Envoy took it."""
        try:
            async with self._client().post(f"http://envoy{path}") as response:
                return response.status == 200
        except _FAILURES:
            return False

    async def stats(self, pattern: str) -> dict[str, str] | None:
        """The statistics whose names match the regular expression."""
        try:
            async with self._client().get("http://envoy/stats", params={"filter": pattern}) as response:
                lines = (await response.text()).splitlines()
        except _FAILURES:
            return None
        pairs = (line.partition(": ") for line in lines)
        return {name: value.strip('"') for name, separator, value in pairs if separator}

    async def active_requests(self) -> int | None:
        """Requests that the gateway's listener is serving right now."""
        found = await self.stats(rf"^http\.{STAT_PREFIX}\.downstream_rq_active$")
        return int(next(iter(found.values()))) if found else None
