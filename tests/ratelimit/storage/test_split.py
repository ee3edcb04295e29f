"""Two stores in one: where operations go, and what one gives back when the other denies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ratelimit.rules import Algorithm
from ratelimit.storage import Count, MemoryStore, Operation, RedisStore, SplitStore, Store
from ratelimit.storage.base import Action
from sidecar.errors import StoreError
from sidecar.redis import connect
from tests.ratelimit.factories import settled
from tests.ratelimit.storage.operations import NOON, operation


async def ask(store: Store, *operations: Operation) -> Sequence[Count]:
    return await settled(store.apply(operations, NOON))


def slow(
    key: str, action: Action = Action.ADD, hits: int = 1, algorithm: Algorithm = Algorithm.FIXED_WINDOW
) -> Operation:
    return operation(key, action, hits, 10, algorithm=algorithm)


def fast(
    key: str, action: Action = Action.ADD, hits: int = 1, algorithm: Algorithm = Algorithm.FIXED_WINDOW
) -> Operation:
    return operation(key, action, hits, 10, algorithm=algorithm, seconds=1, per_second=True)


async def test_counters_of_a_second_live_in_the_second_store() -> None:
    main, second = MemoryStore(), MemoryStore()
    store = SplitStore(main, second)
    assert await ask(store, slow("a")) == [Count(1)]
    assert await ask(store, fast("b")) == [Count(1)]
    assert await ask(store, fast("b"), slow("a", hits=2), fast("c", hits=3), slow("a")) == [
        Count(2), Count(3), Count(3), Count(4),
    ]  # fmt: skip
    assert (len(main), len(second)) == (1, 2)


def test_one_store_alone_answers_as_it_does() -> None:
    store = SplitStore(MemoryStore(), MemoryStore())
    assert store.apply([slow("a")], NOON) == [Count(1)]
    assert store.apply([fast("a")], NOON) == [Count(1)]
    assert store.apply([], NOON) == []


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_what_one_reserves_the_other_may_deny(algorithm: Algorithm) -> None:
    store = SplitStore(MemoryStore(), MemoryStore())
    await ask(store, slow("a", hits=3, algorithm=algorithm), fast("b", hits=3, algorithm=algorithm))
    for action in (Action.RESERVE, Action.STOP) if algorithm is not Algorithm.FIXED_WINDOW else (Action.RESERVE,):
        for one, other in ((5, 8), (8, 5)):
            counts = await ask(
                store,
                slow("a", action, one, algorithm),
                fast("b", action, other, algorithm),
                slow("a", action, 1, algorithm),
            )
            assert [count.over for count in counts][:2] == [one == 8, other == 8]
            assert [count.value for count in counts] == [3, 3, 3]
        counts = await ask(store, slow("a", action, 1, algorithm), fast("b", action, 1, algorithm))
        assert [count.value for count in counts] == [4, 4]
        await ask(
            store,
            slow("a", Action.ADJUST, -1, algorithm),
            fast("b", Action.ADJUST, -1, algorithm),
        )


async def test_a_stop_counts_only_what_is_over_itself_in_either_store() -> None:
    store = SplitStore(MemoryStore(), MemoryStore())
    assert await ask(store, slow("a", Action.STOP, 5), fast("b", Action.STOP, 11)) == [Count(0), Count(11, True)]
    assert await ask(store, slow("a", Action.STOP, 5), fast("c", Action.STOP, 5)) == [Count(5), Count(5)]


async def test_a_watch_that_is_over_denies_nothing_in_the_other_store() -> None:
    store = SplitStore(MemoryStore(), MemoryStore())
    counts = await ask(store, slow("a", Action.RESERVE, 4), fast("b", Action.WATCH, 11))
    assert counts == [Count(4), Count(11, True)]
    assert await ask(store, slow("a", hits=0)) == [Count(4)]


class Failing(MemoryStore):
    def apply(self, operations: Sequence[Operation], now: float) -> list[Count]:
        raise StoreError("gone", transient=True)

    async def forget(self, keys: Sequence[str]) -> None:
        raise StoreError("gone", transient=True)

    async def ping(self) -> None:
        raise StoreError("gone", transient=True)


@pytest.mark.parametrize("first", [True, False])
async def test_fails_when_either_does_and_the_other_has_had_its_say(first: bool) -> None:
    whole = MemoryStore()
    store = SplitStore(Failing(), whole) if first else SplitStore(whole, Failing())
    with pytest.raises(StoreError, match="gone"):
        await ask(store, slow("a"), fast("b"))
    assert len(whole) == 1
    for doing in (store.ping(), store.forget(["a"])):
        with pytest.raises(StoreError, match="gone"):
            await doing
    await store.close()


async def test_forgets_in_both() -> None:
    store = SplitStore(MemoryStore(), MemoryStore())
    await ask(store, slow("a"), fast("b"))
    await store.forget(["a", "b"])
    assert await ask(store, slow("a", hits=0), fast("b", hits=0)) == [Count(0), Count(0)]


async def test_of_two_redis_stores_64_clients_admit_exactly_the_smaller_limit(redis_url: str, domain: str) -> None:
    store = SplitStore(RedisStore(connect(redis_url, timeout=5)), RedisStore(connect(redis_url, timeout=5)))
    both = (
        operation(f"{{{domain}}}_day", Action.RESERVE, 1, 1000),
        operation(f"{{{domain}}}_second", Action.RESERVE, 1, 100, per_second=True),
    )

    async def client() -> int:
        return sum([not any(count.over for count in await ask(store, *both)) for _ in range(5)])

    assert sum(await asyncio.gather(*(client() for _ in range(64)))) == 100
    assert [count.value for count in await ask(store, *(one._replace(hits=0) for one in both))] == [100, 100]
    await store.close()
