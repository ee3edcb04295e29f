from __future__ import annotations

import gc
import tracemalloc

import pytest

from ratelimit.rules import Algorithm
from ratelimit.storage.base import Action, Count, Operation
from ratelimit.storage.memory import MemoryStore
from tests.ratelimit.storage.operations import NOON, SHAPES, operation


def add(key: str, hits: int = 1, ttl: int = 60) -> Operation:
    return Operation(key, Action.ADD, hits, 10**9, ttl)


def test_a_counter_ends_with_its_ttl() -> None:
    store = MemoryStore()
    store.apply([add("a", 5)], 100.9)
    assert store.apply([add("a", 0)], 159.9) == [Count(5)]
    assert store.apply([add("a", 0)], 160) == [Count(0)]


def test_later_hits_do_not_lengthen_a_counters_life() -> None:
    store = MemoryStore()
    store.apply([add("a", 5)], 100)
    store.apply([add("a", 5)], 159)
    assert store.apply([add("a", 0)], 160) == [Count(0)]


def test_checks_and_refusals_make_no_counter() -> None:
    store = MemoryStore()
    store.apply([add("a", 0)], 100)
    store.apply([Operation("b", Action.RESERVE, 5, 1, 60)], 100)
    store.apply([Operation("c", Action.ADJUST, -5, 0, 60)], 100)
    assert len(store) == 0


def test_what_has_expired_goes_though_nobody_asks_for_it() -> None:
    store = MemoryStore()
    store.apply([add(f"old{number}") for number in range(1000)], 100)
    for number in range(300):
        store.apply([add(f"new{number}")], 200)
    assert len(store) == 300


def test_living_counters_are_never_swept() -> None:
    store = MemoryStore()
    store.apply([add(f"k{number}", ttl=1000) for number in range(100)], 100)
    for _ in range(200):
        store.apply([add("short", ttl=1)], 101)
    assert len(store) == 101


def test_never_holds_more_than_its_bound_and_lets_the_first_to_expire_go() -> None:
    store = MemoryStore(max_counters=10)
    store.apply([add("long", 7, ttl=900)], 100)
    for number in range(50):
        store.apply([add(f"k{number}", ttl=60)], 100)
        assert len(store) <= 10
    assert store.apply([add("long", 0)], 100) == [Count(7)]
    assert store.evicted == 41


def test_a_counter_made_anew_outlives_its_old_expiry() -> None:
    store = MemoryStore(max_counters=100)
    # More expires at once than one decision sweeps, so "a" is made anew while its old expiry is still noted.
    store.apply([add("a")] + [add(f"old{number}") for number in range(99)], 100)
    store.apply([add("a", 3, ttl=900)], 200)
    for number in range(99):
        store.apply([add(f"k{number}", ttl=60)], 200)
        assert len(store) <= 100
    assert store.apply([add("a", 0)], 200) == [Count(3)]


def test_nothing_is_left_of_expired_counters() -> None:
    store = MemoryStore()
    for second in range(1000):
        store.apply([add(f"k{second}", ttl=1)], second)
    assert len(store) <= 2
    assert len(store._expiries) <= 2
    assert len(store._expiries.seconds) <= 2


# every other algorithm


def shaped(key: str, algorithm: Algorithm, hits: int = 1, limit: int = 100, seconds: int = 60) -> Operation:
    return operation(key, hits=hits, limit=limit, algorithm=algorithm, seconds=seconds)


@pytest.mark.parametrize("algorithm", SHAPES)
def test_a_shape_makes_no_counter_of_checks_and_refusals(algorithm: Algorithm) -> None:
    store = MemoryStore()
    for action, hits in ((Action.ADD, 0), (Action.ADD, 101), (Action.RESERVE, 101), (Action.STOP, 101)):
        store.apply([shaped("a", algorithm, hits)._replace(action=action)], NOON)
    assert len(store) == 0


@pytest.mark.parametrize("algorithm", SHAPES)
def test_a_shape_goes_when_it_is_free_and_not_before(algorithm: Algorithm) -> None:
    store = MemoryStore()
    reset = store.apply([shaped("a", algorithm, 50)], NOON)[0].reset
    store.apply([add("other")], NOON + reset - 1)
    assert store.apply([shaped("a", algorithm, 0)], NOON + reset - 1)[0].value > 0
    assert len(store) == 2
    for second in range(200):
        store.apply([add("other", ttl=1000)], NOON + reset + second)
    assert len(store) == 1


@pytest.mark.parametrize("algorithm", SHAPES)
def test_a_counter_that_is_prolonged_again_and_again_is_noted_once(algorithm: Algorithm) -> None:
    store = MemoryStore()
    for second in range(2000):
        store.apply([shaped("a", algorithm, 1), add("b", ttl=1)], NOON + second)
        assert len(store._expiries) == len(store)
        assert store.apply([shaped("a", algorithm, 0)], NOON + second)[0].value > 0
    assert len(store._expiries.seconds) <= 2


def test_a_log_weighs_what_it_holds() -> None:
    store = MemoryStore(max_counters=100)
    for number in range(10):
        store.apply([add(f"k{number}", ttl=30)], NOON)
    for number in range(2000):
        store.apply([shaped("log", Algorithm.SLIDING_LOG, limit=10**6)], NOON + number / 1000)
    assert len(store) == 0 or len(store._logs["log"]) <= 2 * 8 * 100
    assert store.evicted >= 10
    for second in range(400):
        store.apply([add("b", ttl=1)], NOON + 100 + second)
    assert store._words == 0


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_what_is_forgotten_is_counted_anew_and_noted_once(algorithm: Algorithm) -> None:
    store = MemoryStore()
    for _ in range(50):
        store.apply([shaped("a", algorithm, 60)], NOON)
        assert store.apply([shaped("a", algorithm, 0)], NOON)[0].value == 60
        await store.forget(["a", "nobody"])
        assert store.apply([shaped("a", algorithm, 0)], NOON)[0].value == 0
    assert len(store) == len(store._expiries) == 1
    assert store._words <= 3


def test_never_holds_more_than_its_bound_of_any_algorithm() -> None:
    store = MemoryStore(max_counters=50)
    for number in range(1000):
        algorithm = SHAPES[number % 4]
        store.apply([shaped(f"k{number}", algorithm, seconds=1 + number % 7)], NOON + number / 100)
        assert len(store) <= 50
        assert len(store._expiries) == len(store)
    assert store.evicted > 100


def test_long_lives_share_their_seconds() -> None:
    store = MemoryStore()
    for number in range(20_000):
        store.apply([shaped(f"k{number}", Algorithm.GCRA, 1 + number % 90, seconds=31_536_000)], NOON + number)
    assert len(store._expiries.seconds) < 1000


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_counter_is_dense(algorithm: Algorithm) -> None:
    """Fewer than 200 bytes over the key's own, all containers included; bench/memory_store.py says how many."""
    store, keys = MemoryStore(), [f"{{tenant_{number}}}_requests" for number in range(12_000)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for key in keys:
        store.apply([shaped(key, algorithm, 1000, 10**6)], NOON + 7)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(store) == 12_000
    assert taken / 12_000 < 200
