"""The lock and its fence in a real Redis, and what any order of events makes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from extproc.cache.store import Locks, RedisStore
from extproc.cache.store.locks import ALONE, TAKEN, THERE
from extproc.cache.store.names import Names
from extproc.cache.store.script import answer, read, send
from tests.extproc.cache_store.factories import key, names, redis_store, until
from tests.redis_server import RedisServer

KEY = key("a")


@pytest.fixture
def locks(shared: RedisStore, under: Names) -> Locks:
    return Locks(shared._client, under)


async def acquire(locks: Locks) -> int:
    return int(await answer(locks.acquire(KEY)))


async def test_one_leads_until_it_lands(shared: RedisStore, locks: Locks) -> None:
    token = await acquire(locks)
    assert token > 0
    assert await acquire(locks) == TAKEN
    assert await shared.put(KEY, b"v", 60, ["t"], token)
    assert await acquire(locks) == THERE
    assert await shared.get(KEY) == b"v"


async def test_one_leads_until_it_gives_up(locks: Locks) -> None:
    token = await acquire(locks)
    locks.release(KEY, token)
    later = await acquire(locks)  # on the same connection, so it comes after
    assert later > token
    locks.release(KEY, token)  # of an older leader: not its own any more
    assert await acquire(locks) == TAKEN


async def test_after_an_answer_that_cannot_be_shared_nobody_leads_for_a_while(shared: RedisStore, under: Names) -> None:
    locks = Locks(shared._client, under, alone=0.05)
    token = await acquire(locks)
    locks.release(KEY, token, alone=True)
    assert await acquire(locks) == ALONE
    began = time.monotonic()
    while (later := await acquire(locks)) == ALONE:
        assert time.monotonic() - began < 10
    assert later > token


async def test_a_leader_that_dies_is_followed_when_its_lock_ends(shared: RedisStore, under: Names) -> None:
    dying = Locks(shared._client, under, seconds=0.05)
    first = await acquire(dying)
    began = time.monotonic()
    while (second := await acquire(dying)) == TAKEN:
        assert time.monotonic() - began < 10
    assert second > first
    assert not await shared.put(KEY, b"old", 60, [], first)  # it was only away, and wakes up
    assert await shared.get(KEY) is None
    assert await shared.put(KEY, b"new", 60, [], second)
    assert not await shared.put(KEY, b"old", 60, [], first)
    assert await shared.get(KEY) == b"new"


async def test_a_lock_that_is_renewed_lives_on(shared: RedisStore, under: Names) -> None:
    short, long = Locks(shared._client, under, seconds=0.05), Locks(shared._client, under, seconds=60)
    token = await acquire(short)
    lost: list[bool] = []
    long.renew(KEY, token, lambda: lost.append(True))
    began = time.monotonic()
    while time.monotonic() - began < 0.1:
        assert await acquire(short) == TAKEN
    assert not lost


async def test_a_lost_lock_is_taken_again_unless_another_has_led(shared: RedisStore, under: Names) -> None:
    short = Locks(shared._client, under, seconds=0.02)
    first = await acquire(short)
    place = under.lock(KEY)
    began = time.monotonic()
    while await _exists(shared, place):
        assert time.monotonic() - began < 10
    lost: list[bool] = []
    Locks(shared._client, under).renew(KEY, first, lambda: lost.append(True))
    assert await acquire(short) == TAKEN
    short.release(KEY, first)
    assert await acquire(short) > first
    short.renew(KEY, first, lambda: lost.append(True))
    await until(lambda: bool(lost), "it hears of the other")


async def _exists(store: RedisStore, place: str) -> bool:
    return bool(await answer(send(store._client, place, "EXISTS", place)))


async def test_tokens_grow_though_redis_forgets(own_redis: RedisServer) -> None:
    under = names()
    store = redis_store(own_redis.url, under)
    locks = Locks(store._client, under)
    first = await acquire(locks)
    with own_redis.client() as client:
        client.flushall()
    assert not await store.put(KEY, b"v", 60, [], first)
    assert await acquire(locks) > first
    await store.close()


async def test_everything_ends(shared: RedisStore, under: Names, locks: Locks) -> None:
    token = await acquire(locks)
    for place, longest in ((under.lock(KEY), 5_000), (under.fence(KEY), 3_600_000)):
        assert 0 < await answer(send(shared._client, place, "PTTL", place)) <= longest
    await shared.put(KEY, b"v", 60, [], token)
    assert not await _exists(shared, under.lock(KEY))


# Who does what: an actor acquires, renews, releases, lands; or its lock ends because it was away.
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(("acquire", "acquire", "renew", "release", "disband", "land", "away", "purge")),
    ),
    max_size=40,
)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client() as opened:
        yield opened


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
def test_in_any_order_one_leads_and_no_old_value_wins(client: Redis, events: list[tuple[int, str]]) -> None:
    under = names()
    value, lock, fence = under.value(KEY), under.lock(KEY), under.fence(KEY)
    tokens: dict[int, int] = {}  # what each actor believes to lead with
    newest, holder, there = 0, 0, 0  # as it should be: the last token, that of the lock, that of the value

    def call(name: str, keys: list[str], *arguments: object) -> int:
        return int(client.eval(read(name), len(keys), *keys, *arguments))  # type: ignore[arg-type]

    for actor, event in events:
        token = tokens.get(actor, 0)
        if event == "acquire":
            word = call("acquire", [value, lock, fence], 60_000, 3_600_000)
            if there or holder:
                assert word == (THERE if there else ALONE if holder == ALONE else TAKEN)
            else:
                assert word > newest
            if word > 0:
                tokens[actor] = newest = holder = word
        elif event == "away":
            client.delete(lock)
            holder = 0
        elif event == "purge":
            client.delete(value)
            there = 0
        elif token and event == "renew":
            assert call("renew", [lock, fence], token, 60_000) == (token == newest)
            holder = token if token == newest else holder
        elif token and event == "release":
            assert call("release", [lock], token, 0) == (token == holder)
            holder = 0 if token == holder else holder
        elif token and event == "disband":
            assert call("release", [lock], token, 60_000) == (token == holder)
            holder = ALONE if token == holder else holder
        elif token:
            assert call("land", [value, lock, fence], token, str(token), 60_000) == (token == newest)
            if token == newest:
                there, holder = token, 0 if holder == token else holder
        found = client.get(lock)
        assert (ALONE if found == b"alone" else int(found or 0)) == holder
        assert int(client.get(value) or 0) == there
    client.delete(value, lock, fence)


async def test_64_who_ask_at_once_are_one_leader(locks: Locks) -> None:
    words = await asyncio.gather(*(acquire(locks) for _ in range(64)))
    assert words.count(TAKEN) == 63
