"""A store over a real Redis, and another client to look at what is there."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from ratelimit.storage import RedisStore, open_store


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client: Redis = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def redis_store(redis_url: str) -> AsyncIterator[RedisStore]:
    opened = open_store(redis_url)
    assert isinstance(opened, RedisStore)
    yield opened
    await opened.close()
