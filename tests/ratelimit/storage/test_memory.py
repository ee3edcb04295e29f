from __future__ import annotations

from ratelimit.storage.base import Action, Count, Operation
from ratelimit.storage.memory import MemoryStore


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
