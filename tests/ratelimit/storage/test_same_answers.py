"""Whatever is asked, of whatever algorithms together, memory and Redis give the same answers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimit.rules import Algorithm
from ratelimit.storage import MemoryStore, RedisStore
from ratelimit.storage.base import MAX_COUNT, Action, Count, Operation, Shape
from sidecar.redis import connect
from tests.ratelimit.storage.operations import NOON

_RUN, _NUMBER = uuid4().hex, itertools.count()
_MOST_BACK = 4.5  # seconds; the store may forget a free counter after TTL_SLACK


class Rule(NamedTuple):
    """What a key counts by."""

    key: str
    limit: int
    ttl: int
    shape: Shape | None


class Decision(NamedTuple):
    now: float
    operations: tuple[Operation, ...]


limits = st.integers(0, 20) | st.sampled_from([100, 10**6, 10**12, 2**51 - 1, 2**51, MAX_COUNT - 1, MAX_COUNT])
slots = st.sampled_from(["{a}", "{b}", ""])


@st.composite
def rules(draw: st.DrawFn, algorithms: Sequence[Algorithm], tags: st.SearchStrategy[str]) -> list[Rule]:
    made = []
    for number in range(draw(st.integers(1, 4))):
        algorithm, limit = draw(st.sampled_from(algorithms)), draw(limits)
        seconds = draw(st.sampled_from([1, 7, 60, 86_400, 315_360_000]))
        burst = draw(st.sampled_from([limit, 1, limit // 3, min(MAX_COUNT, 2 * limit)]))
        shape = None if algorithm is Algorithm.FIXED_WINDOW else Shape(algorithm, seconds, burst)
        made.append(Rule(f"{draw(tags)}_{number}_{algorithm.value}", limit, 10**6, shape))
    return made


@st.composite
def histories(
    draw: st.DrawFn, algorithms: Sequence[Algorithm], tags: st.SearchStrategy[str], back: float
) -> list[Decision]:
    """Decisions over some minutes. A key has one mode in a decision, because a rule has one."""
    there = draw(rules(algorithms, tags))
    now, latest, history = float(NOON), float(NOON), []
    steps = st.sampled_from([0.0, 1e-6, 0.25, 1.0, 3.0, 7.0, 59.75, 60.0, 90_000.0]) | st.floats(0, 130)
    for _ in range(draw(st.integers(1, 12))):
        now = max(latest - back, now + draw(steps | st.floats(-back, 0)))
        latest = max(latest, now)
        if draw(st.integers(0, 5)) == 5:
            there = [one._replace(limit=reloaded(one, draw(limits))) for one in there]
        operations, actions = [], {}
        for _ in range(draw(st.integers(1, 4))):
            key, limit, ttl, shape = draw(st.sampled_from(there))
            if key not in actions:
                actions[key] = draw(st.sampled_from(Action))
            hits = draw(st.integers(0, 12) | st.sampled_from([limit, limit // 2, limit // 3 + 1, MAX_COUNT]))
            if actions[key] is Action.ADJUST:
                hits = draw(st.sampled_from([hits, -hits]))
            at = int(now) - draw(st.sampled_from([0, 0, 1, 2, 7, 60, 90, -3, NOON]))
            operations.append(Operation(key, actions[key], hits, limit, ttl, shape, max(0, at)))
        history.append(Decision(now, tuple(operations)))
    return history


def reloaded(rule: Rule, limit: int) -> int:
    """Another limit. A token bucket's may only grow: it is forgotten when it is full by the old one."""
    bucket = rule.shape is not None and rule.shape.algorithm is Algorithm.TOKEN_BUCKET
    return max(rule.limit, limit) if bucket else limit


def in_space(history: list[Decision]) -> list[Decision]:
    """The same on keys that no other example uses, in the same slots as before."""
    space = f"{_RUN}{next(_NUMBER)}"

    def renamed(key: str) -> str:
        return key.replace("{", f"{{{space}") if key.startswith("{") else space + key

    return [
        Decision(one.now, tuple(operation._replace(key=renamed(operation.key)) for operation in one.operations))
        for one in history
    ]


async def answers(url: str, history: list[Decision], *, clustered: bool) -> list[list[Count]]:
    client = connect(url, timeout=5)
    client.clustered = clustered
    store = RedisStore(client)
    try:
        return [list(await store.apply(one.operations, one.now)) for one in history]
    finally:
        await store.close()


def agree(redis_url: str, history: list[Decision], *, clustered: bool = False) -> None:
    history = in_space(history)
    memory = MemoryStore()
    counts = [list(memory.apply(one.operations, one.now)) for one in history]
    assert counts == asyncio.run(answers(redis_url, history, clustered=clustered))
    for one, found in zip(history, counts, strict=True):
        for operation, count in zip(one.operations, found, strict=True):
            assert 0 <= count.value <= MAX_COUNT
            assert (count.reset >= 1) if count.over and operation.shape else (count.reset >= 0)


with_redis = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@with_redis
@given(history=histories(list(Algorithm), slots, _MOST_BACK))
def test_memory_and_redis_agree(redis_url: str, history: list[Decision]) -> None:
    agree(redis_url, history)


@settings(with_redis, max_examples=100)
@given(history=histories([Algorithm.FIXED_WINDOW], slots, 0), clustered=st.booleans())
def test_memory_and_redis_agree_on_fixed_windows_alone(
    redis_url: str, history: list[Decision], clustered: bool
) -> None:
    agree(redis_url, history, clustered=clustered)


@settings(with_redis, max_examples=60)
@given(history=histories([one for one in Algorithm if one is not Algorithm.SLIDING_LOG], slots, 0))
def test_memory_and_redis_agree_across_slots(redis_url: str, history: list[Decision]) -> None:
    """A log is not as it was before when an entry is given back: the correction is a second entry."""
    agree(redis_url, history, clustered=True)


@settings(max_examples=150, deadline=None)
@given(history=histories(list(Algorithm), slots, _MOST_BACK))
def test_a_denied_decision_reserves_nothing_and_shapes_count_admitted_calls_alone(history: list[Decision]) -> None:
    store = MemoryStore()
    for now, operations in history:
        keys = list({operation.key: operation for operation in operations}.values())
        checks = [operation._replace(action=Action.ADD, hits=0) for operation in keys]
        before = dict(zip([one.key for one in keys], store.apply(checks, now), strict=True))
        counts = store.apply(operations, now)
        after = dict(zip([one.key for one in keys], store.apply(checks, now), strict=True))
        denied = any(c.over and o.action is not Action.WATCH for o, c in zip(operations, counts, strict=True))
        for key in before:
            own = [(o, c) for o, c in zip(operations, counts, strict=True) if o.key == key]
            action, shape = own[0][0].action, own[0][0].shape
            if action is Action.ADJUST:
                continue
            counted = 0
            for operation, count in own:
                stopped = denied and (action is Action.RESERVE or (action is Action.STOP and not count.over))
                if not stopped and not (shape and count.over):
                    counted += operation.hits
            assert after[key].value == min(MAX_COUNT, before[key].value + counted)
            if shape is not None and counted:
                size = shape.burst if shape.algorithm in (Algorithm.TOKEN_BUCKET, Algorithm.GCRA) else own[0][0].limit
                assert after[key].value <= size
