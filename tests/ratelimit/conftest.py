"""Fixtures for the rate-limit tests: a clock that stands, and both stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from ratelimit.storage import Store, open_store
from tests.ratelimit.factories import Clock
from tests.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a real Redis, shared by the run: use a `domain` of your own, never flush. A busy machine may be slow."""
    return f"{redis_server.url}?socket_timeout=5&socket_connect_timeout=5"


@pytest.fixture
def domain() -> str:
    """A domain that no other test counts in."""
    return uuid4().hex


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Each store in turn: what a limiter promises holds on both."""
    url = "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")
    opened = open_store(url)
    yield opened
    await opened.close()
