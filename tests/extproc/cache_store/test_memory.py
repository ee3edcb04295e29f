"""The embedded store: time, room, and what goes first."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.cache.store import ByKeys, ByTag, Everything, MemoryStore
from tests.extproc.cache_store.factories import Clock, key

MB = 1 << 20


async def test_a_value_ends_with_its_time() -> None:
    clock = Clock()
    store = MemoryStore(MB, clock)
    store.put(key("a"), b"v", 60, ["t"])
    clock.now += 59.9
    assert store.get(key("a")) == b"v"
    clock.now += 0.1
    assert store.get(key("a")) is None
    assert (len(store), store.stats().expirations, store.stats().bytes) == (0, 1, 0)


async def test_what_has_expired_goes_though_nobody_asks_for_it() -> None:
    clock = Clock()
    store = MemoryStore(10 * MB, clock)
    for number in range(1_000):
        store.put(key(number), b"v", 60 + number, [f"t{number}"])
    clock.now += 10_000
    for number in range(100):
        store.put(key(f"new{number}"), b"v", 60, ["new"])
    assert (len(store), store.stats().expirations) == (100, 1_000)


async def test_a_value_put_anew_outlives_the_old_ones_time() -> None:
    clock = Clock()
    store = MemoryStore(MB, clock)
    store.put(key("a"), b"old", 10, ["t"])
    store.put(key("a"), b"new", 1_000, ["t"])
    clock.now += 500
    store.put(key("b"), b"v", 10, [])
    assert store.get(key("a")) == b"new"


async def test_purged_values_that_had_expired_are_not_counted() -> None:
    clock = Clock()
    store = MemoryStore(MB, clock)
    for name, ttl in (("a", 10), ("b", 100), ("c", 10), ("d", 100)):
        store.put(key(name), b"v", ttl, ["t"] if name in "ab" else [])
    clock.now += 50
    assert await store.purge(ByTag("t")) == 1
    assert await store.purge(ByKeys((key("c"),))) == 0
    assert await store.purge(Everything()) == 1


async def test_a_value_larger_than_the_room_is_not_kept_nor_is_the_one_before_it() -> None:
    store = MemoryStore(MB, Clock())
    store.put(key("a"), b"v", 60, [])
    assert not store.put(key("a"), bytes(MB), 60, ["t"])
    assert store.get(key("a")) is None
    assert store.stats().bytes == 0


def lru(trace: list[int], room: int) -> float:
    """What LRU would have had, of entries of one size."""
    hits, queue = 0, OrderedDict[int, None]()
    for one in trace:
        if one in queue:
            hits += 1
            queue.move_to_end(one)
            continue
        queue[one] = None
        if len(queue) > room:
            queue.popitem(last=False)
    return hits / len(trace)


def replay(trace: list[int], max_bytes: int) -> tuple[float, int]:
    """The share of hits, and how many entries there were room for."""
    store, room = MemoryStore(max_bytes, Clock()), 0
    value = bytes(1_000)
    for one in trace:
        name = key(one)
        if store.get(name) is None:
            store.put(name, value, 1_000, ["model:m"])
            room = max(room, len(store))
    return store.stats().hits / len(trace), room


def scans(chance: random.Random) -> Iterator[int]:
    """Some hundreds that are popular, and every now and then a long run of keys that nobody asks for again."""
    fresh = 1_000_000
    for _ in range(8):
        for _ in range(2_500):
            yield int(400 * chance.random() ** 2)
        for _ in range(2_500):
            fresh += 1
            yield fresh


def test_a_scan_does_not_take_the_popular_away() -> None:
    trace = list(scans(random.Random(7)))
    hits, room = replay(trace, MB)
    assert 400 < room < 700  # the popular fit, a scan is several times as large
    without = lru([one for one in trace if one < 1_000_000], room) / 2
    assert without - hits < 0.3 * (without - lru(trace, room))  # of what a scan takes with LRU


def test_a_key_that_comes_back_soon_stays() -> None:
    store = MemoryStore(MB, Clock())
    value = bytes(1_000)
    store.put(key("a"), value, 60, [])
    number = 0
    while key("a") in store._small or key("a") in store._main:
        number += 1
        store.put(key(number), value, 60, [])
    store.put(key("a"), value, 60, [])  # a ghost knows it
    for more in range(number + 1, number + 400):
        store.put(key(more), value, 60, [])
    assert store.get(key("a")) == value


class Model:
    """What may be in the store: everything that was put, not purged and has not ended."""

    def __init__(self) -> None:
        self.known: dict[bytes, tuple[bytes, float, frozenset[str]]] = {}

    def living(self, now: float) -> dict[bytes, bytes]:
        return {name: value for name, (value, ends, _) in self.known.items() if ends > now}


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"),
            st.integers(0, 30),
            st.integers(0, 4_000),
            st.floats(0.1, 500),
            st.lists(st.sampled_from("xyz"), max_size=3),
        ),
        st.tuples(st.just("get"), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.floats(0, 300)),
        st.tuples(st.just("purge"), st.sampled_from("xyz")),
        st.tuples(st.just("drop"), st.integers(0, 30)),
        st.tuples(st.just("clear")),
    ),
    max_size=120,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, max_bytes=st.sampled_from((3_000, 12_000, 60_000)))
async def test_whatever_happens(steps: list[tuple[object, ...]], max_bytes: int) -> None:
    clock, model = Clock(), Model()
    store = MemoryStore(max_bytes, clock)
    for step in steps:
        match step:
            case ("put", int(name), int(size), float(ttl), list(tags)):
                value = bytes([name]) * size
                if store.put(key(name), value, ttl, tags):
                    model.known[key(name)] = (value, clock.now + ttl, frozenset(tags))
                else:
                    model.known.pop(key(name), None)
            case ("get", int(name)):
                assert store.get(key(name)) in (None, model.living(clock.now).get(key(name)))
            case ("wait", float(seconds)):
                clock.now += seconds
            case ("purge", str(tag)):
                await store.purge(ByTag(tag))
                model.known = {name: one for name, one in model.known.items() if tag not in one[2]}
            case ("drop", int(name)):
                await store.purge(ByKeys((key(name),)))
                model.known.pop(key(name), None)
            case ("clear",):
                await store.purge(Everything())
                model.known = {}
        check(store, max_bytes)


def check(store: MemoryStore, max_bytes: int) -> None:
    """Nothing is counted wrong, and no index names what is not there."""
    entries = {**store._small, **store._main}
    assert len(entries) == len(store._small) + len(store._main)
    assert store._small_bytes == sum(entry.size for entry in store._small.values())
    in_tags = {(tag, name) for tag, group in store._tags.items() for name in group.keys}
    assert in_tags == {(group.name, name) for name, entry in entries.items() for group in entry.groups[1:]}
    assert all(group.keys for group in store._tags.values())
    in_calendar = [name for group in store._calendar._groups.values() for name in group.keys]
    assert sorted(in_calendar) == sorted(entries)
    size = store.stats().bytes
    assert size is not None
    assert 0 <= size <= max_bytes


def test_nothing_is_left_of_what_went() -> None:
    clock = Clock()
    store = MemoryStore(200_000, clock)
    for number in range(20_000):
        clock.now += 0.1
        store.put(key(number), b"v" * (number % 400), 30 + number % 2_000, [f"tenant:{number % 50}", f"free:{number}"])
    check(store, 200_000)
    assert len(store._calendar._groups) < 500
    clock.now += 10_000
    for number in range(100):
        store.put(key(number), b"v", 5, [])
        clock.now += 10
    check(store, 200_000)
    assert (len(store), len(store._tags), len(store._calendar._groups)) == (1, 0, 1)
