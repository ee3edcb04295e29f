"""Many decisions at once, and Redis misbehaving: exact where it can be, never counted twice, never mixed up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ratelimit.storage import RedisStore, open_store
from ratelimit.storage.base import Action, Count, Operation
from sidecar.errors import StoreError
from sidecar.redis import connect
from tests.redis_relay import Relay
from tests.redis_server import RedisCluster, RedisServer


def add(key: str, hits: int = 1, limit: int = 10**9) -> Operation:
    return Operation(key, Action.ADD, hits, limit, 60)


def reserve(key: str, hits: int = 1, limit: int = 10**9) -> Operation:
    return Operation(key, Action.RESERVE, hits, limit, 60)


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    """Patient: what is asked is whether it counts right, not how fast."""
    store = RedisStore(connect(redis_server.url, timeout=5))
    yield store
    await store.close()


async def outcome(store: RedisStore, *operations: Operation) -> list[Count] | StoreError:
    try:
        return list(await store.apply(operations, 0))
    except StoreError as error:
        return error


async def test_64_tasks_are_admitted_exactly_up_to_the_limit(store: RedisStore, domain: str) -> None:
    async def one() -> int:
        both = (reserve(f"{{{domain}}}_r", 1, 1000), reserve(f"{{{domain}}}_t", 7, 700))
        return sum([not any(count.over for count in await store.apply(both, 0)) for _ in range(20)])

    assert sum(await asyncio.gather(*(one() for _ in range(64)))) == 100
    assert await store.apply([add(f"{{{domain}}}_r", 0), add(f"{{{domain}}}_t", 0)], 0) == [Count(100), Count(700)]


async def test_scripts_flushed_under_load_are_counted_once(own_redis: RedisServer) -> None:
    store = RedisStore(connect(own_redis.url, timeout=5))
    busy = True

    def flush() -> int:
        times = 0
        with own_redis.client() as other:
            while busy:
                other.script_flush()
                times += 1
        return times

    async def one(number: int) -> None:
        for turn in range(1, 41):
            # A decision of one slot, and one of three.
            assert await store.apply([add(f"own-{number}")], 0) == [Count(turn)]
            assert len(await store.apply([add(f"x-{number}"), add(f"y-{number}"), add("all")], 0)) == 3

    flushing = asyncio.get_running_loop().run_in_executor(None, flush)
    try:
        await asyncio.gather(*(one(number) for number in range(50)))
    finally:
        busy = False
    assert await flushing > 10
    assert await store.apply([add("all", 0)], 0) == [Count(2000)]
    await store.close()


async def test_answers_are_never_another_decisions(store: RedisStore, domain: str) -> None:
    async def one(number: int) -> None:
        for turn in range(1, 31):
            counts = await store.apply([add(f"{domain}-{number}", number, number * 20)], 0)
            assert counts == [Count(number * turn, turn > 20)]

    await asyncio.gather(*(one(number) for number in range(1, 101)))


async def test_connections_that_break_under_load_count_nothing_twice(redis_server: RedisServer, domain: str) -> None:
    """Every decision has a key of its own: admitted is 1, failed is 0 or 1."""
    async with Relay(redis_server.socket) as relay:
        store = RedisStore(connect(relay.url))
        admitted: set[str] = set()
        asked: list[str] = []
        busy = True

        async def one(number: int) -> None:
            turn = 0
            while busy:
                turn += 1
                key = f"{domain}-{number}-{turn}"
                asked.append(key)
                if not isinstance(await outcome(store, add(key)), StoreError):
                    admitted.add(key)
                else:
                    await asyncio.sleep(0.002)

        tasks = [asyncio.ensure_future(one(number)) for number in range(50)]
        for _ in range(8):
            before = len(admitted)
            while len(admitted) < before + 200:
                await asyncio.sleep(0.001)
            relay.drop()
        busy = False
        await asyncio.gather(*tasks)
        assert store.nodes[0].reconnects >= 7
        await store.close()
    patient = RedisStore(connect(redis_server.url, timeout=5))
    values = {}
    for start in range(0, len(asked), 1000):
        keys = asked[start : start + 1000]
        counts = await asyncio.gather(*(patient.apply([add(key, 0)], 0) for key in keys))
        values.update({key: count[0].value for key, count in zip(keys, counts, strict=True)})
    await patient.close()
    assert {values[key] for key in admitted} == {1}
    failed = {values[key] for key in asked if key not in admitted}
    assert failed <= {0, 1}
    assert failed


async def test_a_redis_that_stands_still_mixes_nothing_up_when_it_goes_on(own_redis: RedisServer) -> None:
    store = open_store(own_redis.url)
    assert isinstance(store, RedisStore)
    worked = dict.fromkeys(range(1, 51), 0)
    failed = dict(worked)
    busy = True

    async def one(number: int) -> None:
        while busy:
            counts = await outcome(store, add(f"k{number}", number))
            if isinstance(counts, StoreError):
                failed[number] += 1
                await asyncio.sleep(0.005)
                continue
            worked[number] += 1
            value = counts[0].value
            assert value % number == 0
            assert worked[number] <= value // number <= worked[number] + failed[number]

    tasks = [asyncio.ensure_future(one(number)) for number in worked]
    for _ in range(2):
        before = sum(worked.values())
        while sum(worked.values()) < before + 2000:
            await asyncio.sleep(0.001)
        own_redis.pause()
        await asyncio.sleep(0.25)  # longer than a decision may take
        own_redis.resume()
    before, resumed = sum(worked.values()), time.monotonic()
    while sum(worked.values()) < before + 500:
        await asyncio.sleep(0.001)
    assert time.monotonic() - resumed < 1
    busy = False
    await asyncio.gather(*tasks)
    assert min(failed.values()) > 0
    await store.close()


async def test_5000_at_once_are_bounded_and_those_that_fit_count(own_redis: RedisServer) -> None:
    store = RedisStore(connect(own_redis.url, timeout=5, max_in_flight=1000))
    await store.apply([add("warm")], 0)
    outcomes = await asyncio.gather(*(outcome(store, add("a")) for _ in range(5000)))
    counts = [one for one in outcomes if not isinstance(one, StoreError)]
    assert [count[0].value for count in counts] == list(range(1, 1001))
    assert all(one.transient for one in outcomes if isinstance(one, StoreError))
    assert await store.apply([add("a", 0)], 0) == [Count(1000)]
    await store.close()


async def test_a_decision_of_many_slots_fails_as_a_whole(redis_server: RedisServer, domain: str) -> None:
    store = RedisStore(connect(redis_server.url, timeout=5))
    with redis_server.client() as other:
        other.lpush(f"{domain}_wrong", "x")
    error = await outcome(store, add(f"{domain}_a"), add(f"{domain}_wrong"), add(f"{domain}_b"))
    assert isinstance(error, StoreError)
    assert not error.transient
    assert "WRONGTYPE" in str(error)
    assert await store.apply([], 0) == []
    await store.close()


async def test_a_closed_store_says_so(redis_server: RedisServer) -> None:
    store = open_store(redis_server.url)
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.ping()
    assert isinstance(store, RedisStore)
    for operations in ([add("a")], [add("a"), add("b")]):
        assert isinstance(await outcome(store, *operations), StoreError)


async def test_counts_over_a_cluster_and_gives_back_across_its_nodes(tmp_path: Path) -> None:
    with RedisCluster(tmp_path) as cluster:
        store = RedisStore(connect(f"redis+cluster://127.0.0.1:{cluster.nodes[2].port}", timeout=5))
        keys = [f"k{number}" for number in range(30)]
        for turn in range(1, 4):
            assert await store.apply([reserve(key) for key in keys], 0) == [Count(turn)] * 30
            with cluster.clients() as clients:
                for client in clients:
                    client.script_flush()
        assert len(store.nodes) == 3
        denied = await store.apply([reserve(key, 1, 100 if key != "k7" else 3) for key in keys], 0)
        assert denied == [Count(3, key == "k7") for key in keys]
        assert await store.apply([add(key, 0) for key in keys], 0) == [Count(3)] * 30
        both = [reserve("{team}_r", 1, 10), reserve("{team}_t", 1, 10)]
        admitted = await asyncio.gather(*(store.apply(both, 0) for _ in range(64)))
        assert sum(not any(count.over for count in counts) for counts in admitted) == 10
        await store.ping()
        await store.close()
