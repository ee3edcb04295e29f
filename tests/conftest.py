"""Fixtures for every floor."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis for the whole run. Tests use keys of their own and never flush."""
    with tempfile.TemporaryDirectory(prefix="hg-redis-") as folder, RedisServer(Path(folder)) as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A real Redis that the test may kill."""
    with tempfile.TemporaryDirectory(prefix="hg-redis-") as folder, RedisServer(Path(folder)) as server:
        yield server
