"""What every store does."""

from __future__ import annotations

import os

from extproc.cache.store import ByKeys, ByTag, CacheStore, Everything
from tests.extproc.cache_store.factories import key


async def get(store: CacheStore, name: str) -> bytes | None:
    found = store.get(key(name))
    return found if found is None or isinstance(found, bytes) else await found


async def put(store: CacheStore, name: str, value: bytes = b"v", ttl: float = 60, *tags: str) -> bool:
    kept = store.put(key(name), value, ttl, tags)
    return kept if isinstance(kept, bool) else await kept


async def test_what_is_put_is_there(store: CacheStore) -> None:
    assert await get(store, "a") is None
    assert await put(store, "a", b"one")
    assert (await get(store, "a"), await get(store, "b")) == (b"one", None)
    assert (store.stats().hits, store.stats().misses) == (1, 2)


async def test_values_are_opaque(store: CacheStore) -> None:
    for value in (b"", b"\x00\r\n$-1\r\n", os.urandom(100_000)):
        assert await put(store, "a", value)
        assert await get(store, "a") == value


async def test_a_newer_value_takes_the_place(store: CacheStore) -> None:
    await put(store, "a", b"one", 60, "old")
    await put(store, "a", b"two", 60, "new")
    assert await get(store, "a") == b"two"
    assert await store.purge(ByTag("new")) == 1
    assert await get(store, "a") is None


async def test_what_has_no_life_is_not_kept(store: CacheStore) -> None:
    assert not await put(store, "a", b"v", 0)
    assert not await put(store, "a", b"v", -1)
    assert await get(store, "a") is None


async def test_purge_by_key(store: CacheStore) -> None:
    for name in "abc":
        await put(store, name)
    assert await store.purge(ByKeys((key("a"), key("b"), key("x"), key("a")))) == 2
    assert [await get(store, name) for name in "abc"] == [None, None, b"v"]


async def test_purge_by_tag(store: CacheStore) -> None:
    await put(store, "a", b"v", 60, "model:m", "tenant:t")
    await put(store, "b", b"v", 60, "model:m", "model:m")
    await put(store, "c", b"v", 60, "tenant:t", "{odd}: tag}")
    assert await store.purge(ByTag("model:m")) == 2
    assert await store.purge(ByTag("model:m")) == 0
    assert await store.purge(ByTag("nobody has it")) == 0
    assert await store.purge(ByTag("")) == 0
    assert await get(store, "c") == b"v"
    assert await store.purge(ByTag("{odd}: tag}")) == 1


async def test_purge_of_everything(store: CacheStore) -> None:
    for number in range(700):
        await put(store, str(number), b"v", 60, f"tag:{number % 7}")
    assert await store.purge(Everything()) == 700
    assert await get(store, "5") is None
    assert await store.purge(Everything()) == 0
    assert await put(store, "5")
    assert await store.purge(Everything()) == 1


async def test_it_answers(store: CacheStore) -> None:
    await store.ping()
