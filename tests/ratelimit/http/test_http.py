"""The HTTP servers: what they answer, with which status, and that nothing of a request can hurt them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession

from ratelimit import settings
from ratelimit.http.api import api_paths
from ratelimit.http.debug import DebugSources, debug_paths
from ratelimit.http.server import HttpServer
from ratelimit.limiter import Limiter
from ratelimit.operator import Operator
from ratelimit.rules import RuleSet
from ratelimit.server import rate_limit_service
from ratelimit.settings import RuleFile
from ratelimit.standalone.health import Health
from ratelimit.stats import Stats
from ratelimit.storage.base import Count, Operation, Store
from ratelimit.storage.memory import MemoryStore
from sidecar.errors import ConfigError, StoreError

RULES = "domain: mesh\ndescriptors: [{key: user, rate_limit: {unit: minute, requests_per_unit: 2, name: n}}]"
ASK = '{"domain": "mesh", "descriptors": [{"entries": [{"key": "user", "value": "a"}]}]}'


class BrokenStore:
    """Redis is away."""

    def apply(self, operations: Sequence[Operation], now: float) -> Awaitable[Sequence[Count]]:
        async def fail() -> Sequence[Count]:
            raise StoreError("Redis: away", transient=True)

        return fail()

    async def ping(self) -> None:
        raise StoreError("Redis: away", transient=True)

    async def forget(self, keys: Sequence[str]) -> None:
        raise StoreError("Redis: away", transient=True)

    async def close(self) -> None:
        return


class Served:
    """Both servers on free ports over one limiter."""

    def __init__(self, store: Store, rules: RuleSet | None) -> None:
        self.stats, self.health = Stats(), Health({"rules": True})
        self.operator = Operator(store, time.time)
        service = rate_limit_service(Limiter(store, time.time, self.stats), lambda: rules)
        self.api = HttpServer("PORT", "127.0.0.1:0", api_paths(service, self.health, self.stats))
        sources = DebugSources(lambda: rules, self.operator, self.stats, self.health)
        self.debug = HttpServer("DEBUG_PORT", "127.0.0.1:0", debug_paths(sources))

    async def ask(self, path: str, **given: Any) -> tuple[int, str]:
        server = self.api if path in ("/json", "/healthcheck", "/nope") else self.debug
        method = given.pop("method", "POST" if path == "/json" else "GET")
        url = f"http://{server.address}{path}"
        async with ClientSession() as session, session.request(method, url, **given) as response:
            return response.status, await response.text()


@asynccontextmanager
async def served(store: Store | None = None, text: str | None = RULES) -> AsyncIterator[Served]:
    one = Served(store or MemoryStore(), None if text is None else settings.build([RuleFile("x", text)]))
    await one.api.start()
    await one.debug.start()
    try:
        yield one
    finally:
        await one.api.stop()
        await one.debug.stop()


async def test_json() -> None:
    async with served() as one:
        status, body = await one.ask("/json", data=ASK)
        assert status == 200
        assert '"overallCode": "OK"' in body
        assert '"currentLimit": {"requestsPerUnit": 2, "unit": "MINUTE", "name": "n"}, "limitRemaining": 1' in body
        assert (await one.ask("/json", data=ASK, method="PUT"))[0] == 200  # any method, as there
        status, body = await one.ask("/json", data=ASK)
        assert status == 429
        assert '"overallCode": "OVER_LIMIT"' in body


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "[]", '"text"', '{"domain": 3}', '{"domain": "mesh", "nothing": 1}', '{"domain": ""}', '{"domain": "mesh"}',
        "[" * 100_000, '{"descriptors": ' + "[" * 5_000, b"\xff\xfe", '{"domain": "mesh", "descriptors": [{"limit": {"unit": 99}}]}',
    ],
)  # fmt: skip
async def test_json_that_is_no_request(body: str | bytes) -> None:
    async with served() as one:
        assert await one.ask("/json", data=body) == (400, "Bad Request\n")
        assert (await one.ask("/json", data=ASK))[0] == 200


async def test_a_body_that_is_too_large() -> None:
    async with served() as one:
        assert (await one.ask("/json", data=b"x" * 2_000_000))[0] == 413


async def test_an_unknown_charset() -> None:
    async with served() as one:
        headers = {"content-type": "application/json; charset=nonsense"}
        assert (await one.ask("/json", data=ASK, headers=headers))[0] in (200, 400)


async def test_failures_are_counted() -> None:
    async with served(BrokenStore()) as one:
        assert await one.ask("/json", data=ASK) == (500, "Internal Server Error\n")
        assert 'should_rate_limit_error{err_type="redis_error"} 1' in (await one.ask("/metrics"))[1]
    async with served(text=None) as one:
        assert (await one.ask("/json", data=ASK))[0] == 400
        assert 'should_rate_limit_error{err_type="service_error"} 1' in (await one.ask("/metrics"))[1]


async def test_health() -> None:
    async with served() as one:
        assert await one.ask("/healthcheck") == (200, "OK")
        assert await one.ask("/readyz") == (200, '{"ready":true,"parts":{"rules":true},"stores":{}}\n')
        one.health.report("rules", well=False)
        assert await one.ask("/healthcheck") == (500, "")
        assert await one.ask("/readyz") == (503, '{"ready":false,"parts":{"rules":false},"stores":{}}\n')
        assert await one.ask("/livez") == (200, "ok\n")


async def test_debug_paths() -> None:
    async with served() as one:
        status, index = await one.ask("/")
        assert status == 200
        assert [line.partition(":")[0] for line in index.splitlines()] == [
            "/credit",
            "/explain",
            "/inspect",
            "/livez",
            "/metrics",
            "/readyz",
            "/reset",
            "/rlconfig",
            "/stats",
        ]
        assert (await one.ask("/rlconfig"))[
            1
        ] == "mesh.user: unit=MINUTE requests_per_unit=2, shadow_mode: false, quota_mode: false\n"
        await one.ask("/json", data=ASK)
        assert 'ratelimit_service_rate_limit_total_hits{domain="mesh",key1="user"}: 1\n' in (await one.ask("/stats"))[1]
        assert (await one.ask("/nope"))[0] == 404
    async with served(text=None) as one:
        assert await one.ask("/rlconfig") == (200, "")


async def test_a_scrape_of_many_series_lets_others_have_their_turn() -> None:
    """Written in slices: between two of them the loop runs."""
    async with served() as one:
        for number in range(5_000):
            one.stats.domain_not_found(f"d{number}")
            one.stats._hits["total_hits"].labels("mesh", f"k{number}", "").inc()
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        status, text = await one.ask("/metrics")
        turning.cancel()
        assert status == 200
        assert text.count("\n") > 6_000
        assert turns > 10


async def test_an_address_that_is_taken() -> None:
    async with served() as one:
        again = HttpServer("PORT", one.api.address, {})
        with pytest.raises(ConfigError, match=r"^PORT: cannot bind 127.0.0.1:[0-9]+: .*\(free it or choose"):
            await again.start()
        await again.stop()


def test_health_is_told_only_when_it_changes() -> None:
    told: list[bool] = []
    health = Health({"a": False, "b": True}, told.append)
    health.report("a", well=True)
    health.report("a", well=True)
    health.report("b", well=False)
    health.report("a", well=False)
    health.report("b", well=True)
    assert told == [True, False]
    assert not health.healthy
