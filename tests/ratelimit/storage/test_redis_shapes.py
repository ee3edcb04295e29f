"""What the algorithms leave in Redis: one key per counter, always with an end, decided in one step with all others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ratelimit.rules import Algorithm
from ratelimit.storage import MemoryStore, RedisStore
from ratelimit.storage.base import MAX_COUNT, Action, Count
from sidecar.errors import StoreError
from sidecar.redis import connect
from tests.ratelimit.storage.operations import NOON, SHAPES, operation
from tests.redis_server import RedisCluster, RedisServer


@pytest.fixture
def store(redis_store: RedisStore) -> RedisStore:
    return redis_store


async def calls(client: Redis) -> int:
    stats = await client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


async def test_a_mixed_decision_is_one_script_call_and_all_or_nothing(
    store: RedisStore, client: Redis, domain: str
) -> None:
    mixed = [
        operation(f"{{{domain}}}_{algorithm.value}", Action.RESERVE, 40, algorithm=algorithm) for algorithm in Algorithm
    ]
    for value in (40, 80):
        before = await calls(client)
        assert [count.value for count in await store.apply(mixed, NOON)] == [value] * 5
        assert await calls(client) - before == 1
    assert await store.apply(mixed, NOON) == [
        Count(80, True), Count(80, True, 75), Count(80, True, 60), Count(80, True, 12), Count(80, True, 12),
    ]  # fmt: skip
    small = [one._replace(hits=1) for one in mixed]
    for index in range(5):
        one_too_many = [*small[:index], mixed[index], *small[index + 1 :]]
        assert [count.over for count in await store.apply(one_too_many, NOON)] == [at == index for at in range(5)]
    assert [count.value for count in await store.apply(small, NOON)] == [81] * 5


@pytest.mark.parametrize("algorithm", SHAPES)
async def test_a_counter_is_one_key_that_ends_when_it_is_free(
    store: RedisStore, client: Redis, domain: str, algorithm: Algorithm
) -> None:
    key = f"{{{domain}}}_x"
    (count,) = await store.apply([operation(key, hits=50, algorithm=algorithm)], NOON + 30)
    assert [one async for one in client.scan_iter(f"*{domain}*")] == [key.encode()]
    assert count.reset + 4 <= await client.ttl(key) <= count.reset + 5
    await store.apply([operation(key, hits=10, algorithm=algorithm)], NOON + 45)
    (later,) = await store.apply([operation(key, hits=0, algorithm=algorithm)], NOON + 45)
    assert later.reset + 4 <= await client.ttl(key) <= later.reset + 5


@pytest.mark.parametrize("algorithm", SHAPES)
async def test_checks_and_refusals_make_no_key(
    store: RedisStore, client: Redis, domain: str, algorithm: Algorithm
) -> None:
    key = f"{{{domain}}}_x"
    for action, hits in ((Action.ADD, 0), (Action.ADD, 101), (Action.RESERVE, 101), (Action.STOP, 101)):
        await store.apply([operation(key, action, hits, algorithm=algorithm)], NOON)
    assert await client.exists(key) == 0


async def test_a_log_lets_go_of_what_has_expired_and_of_what_cancels_out(
    store: RedisStore, client: Redis, domain: str
) -> None:
    key = f"{{{domain}}}_log"
    for second in range(0, 1200, 1):
        await store.apply([operation(key, algorithm=Algorithm.SLIDING_LOG, seconds=5, limit=10**6)], NOON + second)
    assert await client.zcard(key) == 5 + 1
    many = [operation(key, algorithm=Algorithm.SLIDING_LOG, seconds=5, limit=10**6)]
    for number in range(1100):  # more than one page of the script
        await store.apply(many, NOON + 2000 + number / 1000)
    assert await client.zcard(key) == 1100 + 1
    assert (await store.apply(many, NOON + 2006.0005))[0].value == 99 + 1
    assert await client.zcard(key) == 99 + 1 + 1
    assert (await store.apply(many, NOON + 3000))[0].value == 1
    assert await client.zcard(key) == 1 + 1
    await store.apply([many[0]._replace(action=Action.ADJUST, hits=-1, at=NOON + 3000)], NOON + 3000)
    assert await client.exists(key) == 0


async def test_a_log_whose_numbers_ended_is_empty_when_all_has_expired(
    store: RedisStore, client: Redis, domain: str
) -> None:
    """What expires passes the smallest number on its way, and so does not add up."""
    memory, key = MemoryStore(), f"{{{domain}}}_log"
    one = operation(key, Action.ADJUST, limit=MAX_COUNT, algorithm=Algorithm.SLIDING_LOG, seconds=7)
    for hits, at in ((MAX_COUNT, 1), (1 - MAX_COUNT, 4), (MAX_COUNT - 1, 2), (1 - MAX_COUNT, 5), (MAX_COUNT - 1, 3)):
        asked = [one._replace(hits=hits, at=NOON + at)]
        assert await store.apply(asked, NOON + 5) == memory.apply(asked, NOON + 5)
    check = [one._replace(hits=0)]
    assert await store.apply(check, NOON + 13) == memory.apply(check, NOON + 13) == [Count(0)]
    assert await client.exists(key) == 0


async def test_the_wait_for_a_place_in_a_log_of_large_numbers_is_exact(store: RedisStore, domain: str) -> None:
    memory, key = MemoryStore(), f"{{{domain}}}_log"
    for now, hits in ((0, 8), (3, 2**52 - 1), (5, 2**52)):
        asked = [operation(key, hits=hits, limit=MAX_COUNT, algorithm=Algorithm.SLIDING_LOG, seconds=7)]
        counts = await store.apply(asked, NOON + now)
        assert counts == memory.apply(asked, NOON + now)
    assert counts == [Count(2**52 + 7, True, 2)]


async def test_a_counter_that_cannot_be_read_fails_the_decision_before_anything_counts(
    store: RedisStore, client: Redis, domain: str
) -> None:
    await client.lpush(f"{{{domain}}}_wrong", "x")
    decision = [
        operation(f"{{{domain}}}_a", algorithm=Algorithm.GCRA),
        operation(f"{{{domain}}}_b"),
        operation(f"{{{domain}}}_wrong", algorithm=Algorithm.TOKEN_BUCKET),
    ]
    with pytest.raises(StoreError) as caught:
        await store.apply(decision, NOON)
    assert not caught.value.transient
    assert await client.exists(f"{{{domain}}}_a", f"{{{domain}}}_b") == 0


async def test_loads_the_larger_script_again_and_counts_once(own_redis: RedisServer) -> None:
    store = RedisStore(connect(own_redis.url, timeout=5))
    async with Redis.from_url(own_redis.url) as client:
        for expected in (1, 2):
            (count,) = await store.apply([operation("a", algorithm=Algorithm.TOKEN_BUCKET)], NOON)
            assert count.value == expected
            await client.script_flush()
    await store.close()


async def test_a_fixed_window_is_the_same_counter_in_both_scripts(store: RedisStore, domain: str) -> None:
    fixed, other = operation(f"{{{domain}}}_f"), operation(f"{{{domain}}}_g", algorithm=Algorithm.GCRA)
    assert await store.apply([fixed], NOON) == [Count(1)]
    assert (await store.apply([fixed, other], NOON))[0] == Count(2)
    assert await store.apply([fixed], NOON) == [Count(3)]


async def test_forgets(store: RedisStore, client: Redis, domain: str) -> None:
    keys = [f"{{{domain}}}_{algorithm.value}" for algorithm in Algorithm]
    decision = [operation(key, algorithm=algorithm) for key, algorithm in zip(keys, Algorithm, strict=True)]
    await store.apply(decision, NOON)
    assert await client.exists(*keys) == 5
    await store.forget([*keys, f"{domain}_nobody", *(f"{domain}_{number}" for number in range(250))])
    assert await client.exists(*keys) == 0
    assert [count.value for count in await store.apply(decision, NOON)] == [1] * 5


async def test_a_forgetting_that_fails_says_so(own_redis: RedisServer) -> None:
    store = RedisStore(connect(own_redis.url))
    await store.ping()
    own_redis.kill()
    with pytest.raises(StoreError) as caught:
        await store.forget(["a", "b"])
    assert caught.value.transient
    await store.close()


async def test_shapes_in_a_cluster(tmp_path: Path) -> None:
    with RedisCluster(tmp_path) as cluster:
        store = RedisStore(connect(cluster.url, timeout=5))
        decision = [
            operation(f"{{team{number}}}_{algorithm.value}", Action.RESERVE, 30, algorithm=algorithm)
            for number in range(6)
            for algorithm in Algorithm
        ]
        for turn in (1, 2, 3):
            assert [count.value for count in await store.apply(decision, NOON)] == [30 * turn] * 30
        # One counter of one tenant denies it: what the others' slots have reserved is given back.
        refused = [one._replace(hits=30 if index == 7 else 1) for index, one in enumerate(decision)]
        counts = await store.apply(refused, NOON)
        assert [index for index, count in enumerate(counts) if count.over] == [7]
        assert [count.value for count in counts] == [90] * 30
        tenant = [one._replace(hits=1) for one in decision[:5]]
        admitted = await asyncio.gather(*(store.apply(tenant, NOON) for _ in range(64)))
        assert sum(not any(count.over for count in counts) for counts in admitted) == 10
        await store.forget([one.key for one in decision])
        assert [count.value for count in await store.apply(decision, NOON)] == [30] * 30
        await store.close()
