"""Fixtures for every floor."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.built import build_once
from tests.redis_server import RedisServer, redis_8


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis for the whole run. Tests use keys of their own and never flush."""
    with tempfile.TemporaryDirectory(prefix="hg-redis-") as folder, RedisServer(Path(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's file system. Nobody writes into it."""
    base = tmp_path_factory.getbasetemp()
    return build_once(base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base)


@pytest.fixture(scope="session")
def vector_server() -> Iterator[RedisServer]:
    """A real Redis 8, which can search vectors. Tests use keys of their own and never flush."""
    with (
        tempfile.TemporaryDirectory(prefix="hg-redis8-") as folder,
        RedisServer(Path(folder), executable=redis_8()) as server,
    ):
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A real Redis that the test may kill."""
    with tempfile.TemporaryDirectory(prefix="hg-redis-") as folder, RedisServer(Path(folder)) as server:
        yield server
