"""Redis in its shapes, and stores over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from extproc.cache.store import CacheStore, MemoryStore, RedisStore, SealedStore
from extproc.cache.store.names import Names
from extproc.cache.vault import Vault
from tests.extproc.cache_store.factories import PATIENT, Clock, names, redis_store
from tests.redis_server import RedisCluster, RedisServer, Sentinels


@pytest.fixture(scope="package")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RedisCluster(tmp_path_factory.mktemp("c")) as cluster:
        yield f"{cluster.url}?{PATIENT}"


@pytest.fixture(scope="package")
def sentinel_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Sentinels(tmp_path_factory.mktemp("s")) as sentinels:
        yield f"{sentinels.url}?{PATIENT}"


@pytest.fixture
def single_url(redis_server: RedisServer) -> str:
    return f"{redis_server.url}?{PATIENT}"


@pytest.fixture(params=["single", "sentinel", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """Redis in each of its shapes."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def under() -> Names:
    return names()


@pytest.fixture
async def shared(url: str, under: Names) -> AsyncIterator[RedisStore]:
    store = redis_store(url, under)
    yield store
    await store.close()


@pytest.fixture(params=["memory", "single", "sentinel", "cluster", "sealed"])
async def store(request: pytest.FixtureRequest, under: Names) -> AsyncIterator[CacheStore]:
    """Every store there is."""
    opened: CacheStore
    if request.param in ("memory", "sealed"):
        opened = MemoryStore(1 << 20, Clock())
        if request.param == "sealed":
            opened = SealedStore(opened, Vault([bytes(32)]))
    else:
        opened = redis_store(request.getfixturevalue(f"{request.param}_url"), under)
    yield opened
    await opened.close()
