"""Answers in a real Redis, in each of its shapes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis import Redis
from redis.cluster import RedisCluster as ClusterClient
from redis.sentinel import Sentinel

from extproc.cache.store import ByKeys, ByTag, Everything, RedisStore
from extproc.cache.store.names import SHARDS, Names
from extproc.cache.store.script import answer, send
from sidecar.errors import StoreError
from sidecar.redis import connect
from sidecar.redis.slots import key_slot
from tests.extproc.cache_store.factories import key, redis_store, until
from tests.redis_server import RedisServer


@pytest.fixture
def look(url: str) -> Iterator[Any]:
    """Another client, to look at what is there."""
    address = url.partition("?")[0]
    client: Any
    if address.startswith("redis+cluster"):
        host, port = address.partition("://")[2].split(",")[0].split(":")
        client = ClusterClient(host=host, port=int(port))
    elif address.startswith("redis+sentinel"):
        host, port = address.partition("://")[2].partition("/")[0].split(":")
        sentinel = Sentinel([(host, int(port))])  # type: ignore[no-untyped-call]
        client = sentinel.master_for(address.rpartition("/")[2])  # type: ignore[no-untyped-call]
    else:
        client = Redis.from_url(address)
    yield client
    client.close()


@pytest.fixture
async def single(single_url: str, under: Names) -> AsyncIterator[RedisStore]:
    store = redis_store(single_url, under)
    yield store
    await store.close()


async def test_everything_written_ends(shared: RedisStore, under: Names, look: Any) -> None:
    await shared.put(key("a"), b"v", 30, ["model:m"])
    places = [under.value(key("a")), under.index("model:m", key("a"))]
    for place in places:
        assert 25_000 < look.pttl(place) <= 30_000
    await shared.put(key("a"), b"v", 90, ["model:m"])
    await shared.put(key("a"), b"v", 5, ["model:m"])  # an index lives as long as it may be needed
    assert [85_000 < look.pttl(place) <= 90_000 for place in places] == [False, True]


async def test_a_value_ends_with_its_time(shared: RedisStore) -> None:
    await shared.put(key("a"), b"v", 0.05, [])
    began = time.monotonic()
    while await shared.get(key("a")) is not None:
        assert time.monotonic() - began < 10
    assert await shared.purge(Everything()) == 0


async def test_what_has_ended_leaves_the_indexes(shared: RedisStore, under: Names, look: Any) -> None:
    names = [bytes([16 * number]) * 32 for number in range(16)]  # all in one part of the index
    for name in names:
        await shared.put(name, b"v", 0.02, ["t"])
    new = bytes(31) + b"n"
    began = time.monotonic()
    while True:
        await shared.put(new, b"v", 60, ["t"])
        if look.zrange(under.index("t", new), 0, -1) == [new]:
            break
        assert time.monotonic() - began < 10


async def test_a_purge_of_everything_needs_no_index_and_takes_nothing_else(
    shared: RedisStore, under: Names, look: Any
) -> None:
    """What an eviction or a server that came back empty has taken out of an index is found all the same."""
    for number in range(40):
        await shared.put(key(number), b"v", 60, ["t"])
    for index in under.indexes("t"):
        look.delete(index)
    others = [under.lock(key(1)), f"{under.value(key(1))}x", f"other:{under.value(key(1))}"]
    for other in others:
        look.set(other, "mine", px=60_000)
    assert await shared.purge(ByTag("t")) == 0
    assert await shared.purge(Everything()) == 40
    assert await shared.get(key(3)) is None
    assert all(look.delete(other) == 1 for other in others)


async def test_a_fresh_client_purges_every_server(url: str, under: Names) -> None:
    """It does not know the cluster's map yet."""
    one, other = redis_store(url, under), redis_store(url, under)
    for number in range(40):
        await one.put(key(number), b"v", 60, [])
    assert await other.purge(Everything()) == 40
    await one.close()
    await other.close()


async def test_a_purge_leaves_names_so_that_a_put_it_came_between_is_found(shared: RedisStore, under: Names) -> None:
    name = key("a")
    await shared.put(name, b"v", 60, ["t"])  # noted ...
    assert await shared.purge(ByTag("t")) == 1
    place = under.value(name)
    await answer(send(shared._client, place, "SET", place, b"late", "PX", 60_000))  # ... and written after the purge
    assert await shared.purge(ByTag("t")) == 1
    assert await shared.get(name) is None


async def test_what_could_not_be_noted_is_not_written(single: RedisStore, under: Names, single_url: str) -> None:
    with Redis.from_url(single_url.partition("?")[0]) as look:
        look.set(under.index("t", key("a")), "no sorted set", px=60_000)
        with pytest.raises(StoreError, match="WRONGTYPE") as raised:
            await single.put(key("a"), b"v", 60, ["t"])
        assert not raised.value.transient
        assert look.get(under.value(key("a"))) is None
        look.lpush(under.value(key("b")), "no string")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await single.get(key("b"))
        look.delete(under.value(key("b")))


async def test_a_purge_is_many_small_steps(single: RedisStore) -> None:
    await asyncio.gather(*(single.put(key(number), b"v", 60, ["t"]) for number in range(1_000)))
    await asyncio.gather(*(single.put(key(number), b"v", 60, ["t"]) for number in range(1_000, 2_000)))
    sent: list[bytes] = []
    real = single._client.send

    def counting(request: Any) -> None:
        sent.append(request.packed)
        real(request)

    single._client.send = counting  # type: ignore[method-assign]
    assert await single.purge(ByTag("t")) == 2_000
    assert len([one for one in sent if b"UNLINK" in one]) == 2_000
    assert not [one for one in sent if b"KEYS" in one.split()[:3] or b"\r\nSCAN\r\n" in one]


async def test_purge_by_many_keys(shared: RedisStore) -> None:
    for number in range(3):
        await shared.put(key(number), b"v", 60, [])
    assert await shared.purge(ByKeys(tuple(key(number) for number in range(1_200)))) == 3


def test_values_and_indexes_are_spread_over_the_slots() -> None:
    names = Names()
    slots = {key_slot(names.value(key(number))) for number in range(1_000)}
    assert len(slots) > 950
    assert len({key_slot(place) for place in names.indexes("model:gpt-4o")}) == SHARDS
    one = key("a")
    assert len({key_slot(place) for place in (names.value(one), names.lock(one), names.fence(one))}) == 1
    assert names.index("t", one) in names.indexes("t")


async def test_reading_is_one_round_trip(single: RedisStore) -> None:
    await single.put(key("a"), b"v", 60, [])
    reading = single.get(key("a"))
    assert reading.packed.split(b"\r\n")[2] == b"GET"
    assert await reading == b"v"


async def test_without_redis_it_fails_in_time(own_redis: RedisServer) -> None:
    store = RedisStore(connect(own_redis.url))
    await store.put(key("a"), b"v", 60, [])
    own_redis.pause()
    began = time.monotonic()
    with pytest.raises(StoreError) as raised:
        await store.get(key("a"))
    assert raised.value.transient
    assert time.monotonic() - began < 2  # its timeout is 0.1 s
    own_redis.resume()
    own_redis.kill()

    async def fails() -> bool:
        began = time.monotonic()
        with pytest.raises(StoreError):
            await store.get(key("a"))
        return time.monotonic() - began < 0.01

    patience = time.monotonic() + 10
    while not await fails():  # after a while at once
        assert time.monotonic() < patience
    with pytest.raises(StoreError):
        await store.put(key("a"), b"v", 60, ["t"])
    with pytest.raises(StoreError):
        await store.purge(Everything())
    own_redis.start()
    done: list[bytes | None] = []

    async def ask() -> None:
        while not done:
            try:
                done.append(await store.get(key("a")))
            except StoreError:
                await asyncio.sleep(0.01)

    task = asyncio.create_task(ask())
    await until(lambda: bool(done), "it answers again")
    await task
    assert done == [None]
    await store.close()


async def test_a_writer_that_dies_half_way_leaves_the_old_value_or_the_new(
    single: RedisStore, single_url: str, under: Names
) -> None:
    await single.put(key("a"), b"old", 60, [])
    new = bytes(32 << 20)
    for turns in (3, 10, 30):
        dying = redis_store(single_url, under)
        await dying.ping()
        writing = asyncio.create_task(dying.put(key("a"), new, 60, []))
        for _ in range(turns):
            await asyncio.sleep(0)
        await dying.close()
        await asyncio.gather(writing, return_exceptions=True)
        assert await single.get(key("a")) in (b"old", new)
    await single.purge(ByKeys((key("a"),)))


async def test_more_than_may_be_in_flight_is_refused_and_leaves_nothing_behind(single: RedisStore) -> None:
    puts = [single.put(key(number), b"v", 60, ["t"]) for number in range(5_000)]
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, StoreError)]
    assert refused
    assert all(error.transient and "in flight" in str(error) for error in refused)
    assert outcomes.count(True) + len(refused) == 5_000
    assert await single.purge(Everything()) == outcomes.count(True)


async def test_a_reader_that_leaves_disturbs_nobody(single: RedisStore) -> None:
    await single.put(key("a"), b"v", 60, [])
    gone = single.get(key("a"))
    other = single.get(key("a"))
    gone.cancel()
    assert await other == b"v"
    assert single.stats().hits == 1
