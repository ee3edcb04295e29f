"""A master that dies, or is told to go, while answers are kept, looked up and purged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from extproc.cache.flight import Leader
from extproc.cache.shared_flight import SharedFlights
from extproc.cache.store import ByTag, Everything, Locks, RedisStore
from extproc.cache.store.names import Names
from sidecar.errors import StoreError
from tests.extproc.cache_store.factories import key, redis_store
from tests.redis_server import Sentinels

_PATIENCE = 20.0


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    """Of its own: its master dies."""
    with Sentinels(tmp_path, count=3) as running:
        yield running


@pytest.fixture
async def store(sentinels: Sentinels, under: Names) -> AsyncIterator[RedisStore]:
    opened = redis_store(sentinels.url, under)
    yield opened
    await opened.close()


async def asked(store: RedisStore, name: str) -> bytes | None:
    """What is kept, once somebody answers."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return await store.get(key(name))
        except StoreError:
            assert time.monotonic() < deadline, "nobody has taken over"
            await asyncio.sleep(0.05)


async def replicated(sentinels: Sentinels, under: Names) -> None:
    """The replica has what the master has."""
    _, replica = sentinels.roles()
    place = under.value(key("a"))
    deadline = time.monotonic() + _PATIENCE
    with replica.client() as client:
        while client.get(place) is None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("dies", [False, True])
async def test_answers_outlive_their_master(
    sentinels: Sentinels, store: RedisStore, under: Names, *, dies: bool
) -> None:
    assert await asked(store, "a") is None
    await store.put(key("a"), b"one", 60, ["model:m", "key:k"])
    await replicated(sentinels, under)
    old, _ = sentinels.roles()
    if dies:
        old.kill()
    else:
        sentinels.fail_over()
    while sentinels.master() == old.port:
        await asyncio.sleep(0.05)
    deadline = time.monotonic() + _PATIENCE
    while True:  # the new master is found, and takes writes
        try:
            await store.put(key("b"), b"two", 60, ["model:m"])
            break
        except StoreError:
            assert time.monotonic() < deadline, "nobody has taken over"
            await asyncio.sleep(0.05)
    assert (await asked(store, "a"), await asked(store, "b")) == (b"one", b"two")
    assert await store.purge(ByTag("key:k")) == 1
    assert await store.purge(ByTag("model:m")) == 1
    assert await store.purge(Everything()) == 0


async def test_a_flight_that_loses_its_lock_with_the_master(
    sentinels: Sentinels, store: RedisStore, under: Names
) -> None:
    """One more asks its provider; nobody waits for ever, and the answer that comes is kept and shared."""
    other = redis_store(sentinels.url, under)
    try:
        flights = [SharedFlights(one, Locks(one._client, under, seconds=2), time.monotonic) for one in (store, other)]
        leader = await flights[0].join(key("a")).wait(10)
        assert isinstance(leader, Leader)
        waiting = asyncio.create_task(flights[1].join(key("a")).wait(_PATIENCE))
        await asyncio.sleep(0.1)
        old, _ = sentinels.roles()
        old.kill()
        outcome = await waiting
        if isinstance(outcome, Leader):  # it has taken over
            outcome.fail()
        leader.fail()
        assert await asked(store, "a") is None
    finally:
        await other.close()
