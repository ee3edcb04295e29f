"""Active checks: a cheap question to each endpoint that has one, now and then. They only move a target in the order."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import aiohttp
import structlog

from extproc.balance.health import Health
from extproc.settings import HealthCheckSettings, PolicySettings, ProviderSettings
from headgate.render.clusters import system_ca
from sidecar.tls import trusting

_log = structlog.get_logger("headgate")
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)
_DOWN_AFTER = 2  # failed checks in a row: one may be chance
_FIRST_FAILURE = 500  # an answer from here on counts as a failure: 401 and 404 come from a server that lives


class HealthChecks:
    """Asks the endpoints of the settings in force and tells `health`. One task for each endpoint."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    def take(self, settings: PolicySettings) -> None:
        """These settings are in force from now on. Needs a running loop."""
        wanted = {
            (endpoint, provider.model_dump_json(include={"health_check", "tls"})): provider
            for provider in settings.providers.values()
            if provider.health_check is not None
            for endpoint in provider.endpoints
        }
        for gone in self._tasks.keys() - wanted.keys():
            self._tasks.pop(gone).cancel()
            self._health.checked(gone[0], True)
        for key in wanted.keys() - self._tasks.keys():
            self._tasks[key] = asyncio.create_task(self._watch(key[0], wanted[key]))

    async def stop(self) -> None:
        """Ask no more."""
        for task in self._tasks.values():
            task.cancel()
        for task in self._tasks.values():
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()

    async def _watch(self, endpoint: str, provider: ProviderSettings) -> None:
        check = provider.health_check
        assert check is not None
        url = urlsplit(endpoint)._replace(path=check.path, query="").geturl()
        failures, up = 0, True
        ask = _asker(
            url,
            check,
            trusting(provider.tls.ca or system_ca()) if url.startswith("https") else None,
            provider.tls.sni or None,
        )
        while True:
            problem = await ask()
            failures = failures + 1 if problem else 0
            now_up = failures < _DOWN_AFTER if up else failures == 0
            if now_up != up:
                up = now_up
                _log.warning("endpoint_checked", endpoint=endpoint, up=up, reason=problem)
            self._health.checked(endpoint, up, f"health check: {problem}" if problem else "")
            await asyncio.sleep(check.interval)


def _asker(
    url: str, check: HealthCheckSettings, trust: ssl.SSLContext | None, name: str | None
) -> Callable[[], Awaitable[str]]:
    timeout = aiohttp.ClientTimeout(total=check.timeout)

    async def ask() -> str:
        """What is wrong, empty when nothing is."""
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, ssl=trust or True, server_hostname=name, allow_redirects=False) as response,
            ):
                return f"status {response.status}" if response.status >= _FIRST_FAILURE else ""
        except _FAILURES as error:
            return type(error).__name__ if not str(error) else str(error)[:200]

    return ask
