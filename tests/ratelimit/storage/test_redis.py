from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ratelimit.storage import MemoryStore, RedisStore, open_store
from ratelimit.storage.base import MAX_COUNT, Action, Count, Operation
from sidecar.errors import ConfigError, StoreError
from sidecar.redis import Client, LinkState, Request, connect
from sidecar.redis.request import Command
from tests.ratelimit.storage.operations import NOON, SHAPES, operation
from tests.redis_relay import Relay
from tests.redis_server import RedisServer


def add(key: str, hits: int = 1, limit: int = 100) -> Operation:
    return Operation(key, Action.ADD, hits, limit, 60)


def reserve(key: str, hits: int = 1, limit: int = 100) -> Operation:
    return Operation(key, Action.RESERVE, hits, limit, 60)


async def commands(client: Redis) -> dict[str, int]:
    """How often each command was called, by clients and by scripts."""
    return {name: stats["calls"] for name, stats in (await client.info("commandstats")).items()}


async def test_a_decision_of_one_tenant_is_one_script_call(redis_store: RedisStore, client: Redis, domain: str) -> None:
    both = [reserve(f"{{{domain}}}_a"), reserve(f"{{{domain}}}_b")]
    await redis_store.apply(both, 0)
    before = await commands(client)
    await redis_store.apply(both, 0)
    after = await commands(client)
    assert after["cmdstat_evalsha"] - before["cmdstat_evalsha"] == 1


async def test_what_a_cluster_would_part_is_one_call_in_one_redis(redis_server: RedisServer, domain: str) -> None:
    mixed = [reserve(f"{{{domain}}}_a"), add(f"{domain}_x"), add(f"{domain}_y"), reserve(f"{{{domain}}}_b")]
    async with Relay(redis_server.socket) as relay:
        store = open_store(f"{relay.url}?socket_timeout=5")
        await store.apply([add(f"{domain}_first")], 0)  # type: ignore[misc]
        relay.sent.clear()
        assert await store.apply(mixed, 0) == [Count(1)] * 4  # type: ignore[misc]
        assert [chunk.count(b"EVALSHA") for chunk in relay.sent] == [1]
        await store.close()


async def test_every_key_has_a_ttl(redis_store: RedisStore, client: Redis, domain: str) -> None:
    await redis_store.apply([add(f"{domain}_a"), reserve(f"{{{domain}}}_b")], 0)
    await redis_store.apply([Operation(f"{domain}_c", Action.ADJUST, 5, 0, 60)], 0)
    for key in (f"{domain}_a", f"{{{domain}}}_b", f"{domain}_c"):
        assert 55 < await client.ttl(key) <= 60


async def test_a_key_left_without_a_ttl_gets_one(redis_store: RedisStore, client: Redis, domain: str) -> None:
    await client.mset({f"{domain}_a": 5, f"{{{domain}}}_b": 5})
    assert await redis_store.apply([reserve(f"{{{domain}}}_b")], 0) == [Count(6)]
    assert 55 < await client.ttl(f"{{{domain}}}_b") <= 60
    for value in range(6, 17):  # what only counts looks at every sixteenth hit
        assert await redis_store.apply([add(f"{domain}_a")], 0) == [Count(value)]
    assert 55 < await client.ttl(f"{domain}_a") <= 60


async def test_a_counter_that_others_drove_beyond_stops_at_the_most(
    redis_store: RedisStore, client: Redis, domain: str
) -> None:
    await client.set(f"{domain}_a", MAX_COUNT - 1, ex=60)
    assert await redis_store.apply([add(f"{domain}_a"), add(f"{domain}_a")], 0) == [
        Count(MAX_COUNT, over=True),
        Count(MAX_COUNT, over=True),
    ]
    assert await client.get(f"{domain}_a") == str(MAX_COUNT).encode()
    assert 55 < await client.ttl(f"{domain}_a") <= 60


async def test_counters_are_plain_numbers_that_others_can_count_on(
    redis_store: RedisStore, client: Redis, domain: str
) -> None:
    await client.incrby(f"{domain}_a", 5)
    await redis_store.apply([add(f"{domain}_a", 10**12)], 0)
    assert await client.get(f"{domain}_a") == b"1000000000005"


async def test_checks_and_refusals_make_no_key(redis_store: RedisStore, client: Redis, domain: str) -> None:
    await redis_store.apply([add(f"{domain}_a", 0)], 0)
    await redis_store.apply([reserve(f"{domain}_b", 101)], 0)
    await redis_store.apply([Operation(f"{domain}_c", Action.ADJUST, -5, 0, 60)], 0)
    assert await client.exists(f"{domain}_a", f"{domain}_b", f"{domain}_c") == 0


async def test_loads_its_script_again_and_counts_once(own_redis: RedisServer) -> None:
    store = open_store(f"{own_redis.url}?socket_timeout=5")
    async with Redis.from_url(own_redis.url) as client:
        for expected in (1, 2):
            assert await store.apply([add("a")], 0) == [Count(expected)]  # type: ignore[misc]
            await client.script_flush()
        assert await store.apply([add("a"), add("b")], 0) == [Count(3), Count(1)]  # type: ignore[misc]
    await store.close()


class Flushing:
    """A client that loses the script before the second of two requests, on the same connection."""

    clustered = True  # a request for each slot

    def __init__(self, client: Client) -> None:
        self._client = client
        self.requests = 0
        self.add_prelude, self.ping, self.close = client.add_prelude, client.ping, client.close
        self.masters = client.masters

    @property
    def nodes(self) -> tuple[LinkState, ...]:
        return self._client.nodes

    def send(self, request: Request) -> None:
        self.requests += 1
        if self.requests == 2:
            self._client.send(Command("SCRIPT", "FLUSH"))
        self._client.send(request)


async def test_a_call_that_has_counted_is_not_run_again(own_redis: RedisServer) -> None:
    """The script may be flushed between two calls of one pipeline; the first must not count twice."""
    client = Flushing(connect(own_redis.url, timeout=5))
    store = RedisStore(client)
    assert await store.apply([add("a"), add("b")], 0) == [Count(1), Count(1)]
    assert client.requests == 3
    await store.close()


async def test_a_killed_redis_is_a_transient_error_and_not_a_hang(own_redis: RedisServer) -> None:
    store = open_store(f"{own_redis.url}?socket_timeout=5")
    await store.ping()
    own_redis.kill()
    started = time.monotonic()
    for operations in ([add("a")], [add("a"), add("b")]):
        with pytest.raises(StoreError) as caught:
            await store.apply(operations, 0)  # type: ignore[misc]
        assert caught.value.transient
    with pytest.raises(StoreError):
        await store.ping()
    assert time.monotonic() - started < 2
    own_redis.start()
    assert await store.apply([add("a")], 0) == [Count(1)]  # type: ignore[misc]
    await store.close()


async def test_a_wrong_type_is_an_error_that_no_retry_mends(
    redis_store: RedisStore, client: Redis, domain: str
) -> None:
    await client.lpush(domain, "x")
    with pytest.raises(StoreError) as caught:
        await redis_store.apply([add(domain)], 0)
    assert not caught.value.transient


async def test_a_cancelled_decision_frees_its_connection(redis_store: RedisStore, domain: str) -> None:
    waiting = [asyncio.ensure_future(redis_store.apply([add(domain)], 0)) for _ in range(200)]
    await asyncio.sleep(0)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    counts = await asyncio.gather(*(redis_store.apply([add(f"{domain}_b")], 0) for _ in range(100)))
    assert sorted(count[0].value for count in counts) == list(range(1, 101))


async def test_opens_by_scheme(redis_url: str) -> None:
    assert isinstance(open_store("memory://"), MemoryStore)
    opened = open_store(redis_url)
    assert isinstance(opened, RedisStore)
    await opened.close()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("memcached://user:hunter2@h", "'memcached' is no store"),
        ("user:hunter2@h:6379", "has no scheme"),
        ("", "has no scheme"),
        ("redis://h:notaport", "not a Redis URL"),
    ],
)
def test_says_which_stores_there_are_and_never_the_password(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


async def test_the_rights_that_the_documents_name_are_enough(tmp_path: Path) -> None:
    rights = ["+evalsha", "+eval", "+ping", "+get", "+set", "+ttl", "+expire", "+incrby", "+unlink", "+del"]
    rights += ["+zrange", "+zrevrange", "+zrangebyscore", "+zadd", "+zrem", "+zremrangebyrank"]  # sliding logs
    with RedisServer(tmp_path, "--user", "gate", "on", ">hunter2", "~*", *rights) as server:
        store = open_store(server.url.replace("unix://", "unix://gate:hunter2@") + "?socket_timeout=5")
        await store.ping()
        with server.client() as other:
            other.set("{a}_1", 5)  # without a ttl, which it is given
        for _ in range(2):
            decision = [add("{a}_1"), reserve("{a}_2"), Operation("b", Action.ADJUST, 5, 0, 60)]
            counts = await store.apply(decision, 0)  # type: ignore[misc]
        assert counts == [Count(7), Count(2), Count(10)]
        for algorithm in SHAPES:
            key, seconds = f"{{a}}_{algorithm.value}", 1
            for now, hits, action in (
                (0, 2, Action.RESERVE),
                (0.5, 2, Action.ADD),
                (0.5, -1, Action.ADJUST),
                (9, 1, Action.ADD),
            ):
                one = operation(key, action, hits, 3, algorithm=algorithm, seconds=seconds, at=NOON)
                await store.apply([one, add("{a}_1")], NOON + now)  # type: ignore[misc]
            await store.apply([one._replace(action=Action.ADJUST, hits=-5, at=NOON + 9)], NOON + 9)  # type: ignore[misc]
        await store.forget(["{a}_1"])
        await store.close()
