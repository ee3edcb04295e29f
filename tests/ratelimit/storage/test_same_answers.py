"""Whatever is asked, memory and Redis give the same answers."""

from __future__ import annotations

import asyncio
import itertools
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimit.storage import MemoryStore, RedisStore
from ratelimit.storage.base import MAX_COUNT, Action, Count, Operation
from sidecar.redis import connect

_RUN, _NUMBER = uuid4().hex, itertools.count()

hits = st.integers(0, 12) | st.sampled_from([10**12, MAX_COUNT])
keys = st.sampled_from(["{a}_1", "{a}_2", "{b}_1", "c", "d{e}"])
operations = st.one_of(
    st.builds(Operation, keys, st.sampled_from([Action.ADD, Action.RESERVE]), hits, st.integers(0, 20), st.just(60)),
    st.builds(
        Operation, keys, st.just(Action.ADJUST), st.integers(-12, 12) | st.just(-MAX_COUNT), st.just(0), st.just(60)
    ),
)


def in_space(operation: Operation, space: str) -> Operation:
    """The operation on a key that no other example uses, in the same slot as before."""
    key = operation.key
    renamed = key.replace("{", f"{{{space}") if key.startswith("{") else space + key
    return Operation(renamed, operation.action, operation.hits, operation.limit, operation.ttl)


def one_mode_each(decision: list[Operation]) -> list[Operation]:
    """A rule has one mode, so no counter is both added to and reserved from, or adjusted, in one decision."""
    first = {one.key: one.action for one in reversed(decision)}
    return [one for one in decision if one.action is first[one.key]]


decisions = st.lists(st.lists(operations, min_size=1, max_size=5).map(one_mode_each), min_size=1, max_size=12)


async def answers(url: str, asked: list[list[Operation]]) -> list[list[Count]]:
    store = RedisStore(connect(url, timeout=5))
    try:
        return [list(await store.apply(one, 0)) for one in asked]
    finally:
        await store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(decisions)
def test_memory_and_redis_agree(redis_url: str, asked: list[list[Operation]]) -> None:
    space = f"{_RUN}{next(_NUMBER)}"
    asked = [[in_space(one, space) for one in decision] for decision in asked]
    memory = MemoryStore()
    assert [list(memory.apply(one, 0)) for one in asked] == asyncio.run(answers(redis_url, asked))


@settings(max_examples=200)
@given(decisions)
def test_a_decision_that_is_over_reserves_nothing_and_one_that_is_not_reserves_all(
    asked: list[list[Operation]],
) -> None:
    store = MemoryStore()
    expected: dict[str, int] = {}
    for decision in asked:
        counts = store.apply(decision, 0)
        denied = any(count.over for count in counts)
        for operation in decision:
            if operation.action is not Action.RESERVE or not denied:
                value = expected.get(operation.key, 0) + operation.hits
                expected[operation.key] = min(MAX_COUNT, max(0, value))
        for operation, count in zip(decision, counts, strict=True):
            if operation.action is Action.RESERVE and not denied:
                assert count.value <= operation.limit
    for key, value in expected.items():
        assert store.apply([Operation(key, Action.ADD, 0, 0, 60)], 0)[0].value == value
