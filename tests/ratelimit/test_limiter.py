"""Decisions, the same over the embedded store and a real Redis. Time is injected."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from ratelimit.algorithms.fixed_window import counter_key
from ratelimit.errors import RequestError
from ratelimit.limiter import UNLIMITED_REMAINING, Decision, Limiter, LimitRequest, Unobserved
from ratelimit.options import Options
from ratelimit.rules import Algorithm, Descriptor, Mode, Node, Rate, Rule, RuleSet, Unit, counter_name
from ratelimit.storage import MemoryStore, RedisStore, Store, open_store
from ratelimit.storage.base import Action, Count, Operation
from ratelimit.storage.split import SplitStore
from sidecar.errors import ConfigError, StoreError
from sidecar.redis import connect
from tests.redis_server import RedisServer

_fresh = itertools.count()
NOW = 1_700_000_000  # 20 seconds into a minute


def rules(amount: int = 10, mode: Mode = Mode.RESERVE, unit: Unit = Unit.MINUTE) -> RuleSet:
    def limit(what: str) -> Node:
        return Node("limit", what, Rule(Rate(amount, unit), mode, label=what))

    return RuleSet({"d": (Node("key", None, children=(limit("a"), limit("b"))),)})


class World:
    """A limiter, its clock, and a tenant nobody else uses."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = float(NOW)
        self.limiter = Limiter(store, lambda: self.now)
        self.key = f"t{time.time_ns()}-{next(_fresh)}"

    def descriptor(self, what: str, hits: int | None, settle: str = "") -> Descriptor:
        entries: tuple[tuple[str, str], ...] = (("key", self.key), ("limit", what))
        return Descriptor((*entries, ("settle", settle)) if settle else entries, hits)

    async def ask(self, rule_set: RuleSet, *descriptors: Descriptor, addend: int = 0) -> Decision:
        decision = self.limiter.decide(rule_set, LimitRequest("d", descriptors, addend))
        return await decision if inspect.isawaitable(decision) else decision

    async def take(self, hits: int | None, rule_set: RuleSet | None = None, what: str = "a") -> Decision:
        return await self.ask(rule_set or rules(), self.descriptor(what, hits))

    async def settle(self, hits: int, reservation: str) -> Decision:
        return await self.ask(rules(), self.descriptor("a", hits, reservation))

    async def used(self, what: str = "a") -> int:
        decision = await self.take(0, rules(1_000_000), what)
        return 1_000_000 - decision.statuses[0].remaining


@pytest.fixture(params=["memory", "redis"])
async def world(request: pytest.FixtureRequest, redis_server: RedisServer) -> AsyncIterator[World]:
    store: Store = MemoryStore() if request.param == "memory" else RedisStore(connect(redis_server.url, timeout=5))
    yield World(store)
    await store.close()


def test_windows_are_aligned_to_the_epoch() -> None:
    assert Rate(1, Unit.MINUTE).start(NOW) % 60 == 0
    assert [Rate(1, Unit.MINUTE).until_reset(60 + offset) for offset in (0, 1, 59)] == [60, 59, 1]


def test_keys_are_those_of_envoyproxy_ratelimit() -> None:
    entries = (("remote_address", "1.2.3.4"), ("empty", ""))
    assert (
        counter_key(counter_name("mesh", entries, Rule(Rate(1, Unit.MINUTE), Mode.CONSUME)), 60)
        == "mesh_remote_address_1.2.3.4_empty__60"
    )
    assert (
        counter_key(counter_name("mesh", entries, Rule(Rate(1, Unit.MINUTE), Mode.RESERVE)), 60)
        == "{mesh_remote_address_1.2.3.4}_empty__60"
    )
    assert (
        counter_key(counter_name("m", (("k", "}{x"),), Rule(Rate(1, Unit.MINUTE), Mode.RESERVE)), 0)
        == "{m_k_%7D%7Bx}_0"
    )


async def test_reserve_admits_exactly_the_limit_and_a_refusal_counts_nothing(world: World) -> None:
    assert [(await world.take(4)).over for _ in range(4)] == [False, False, True, True]
    decision = await world.take(2)
    assert not decision.over
    assert decision.statuses[0].remaining == 0
    assert await world.used() == 10


async def test_consume_counts_refused_calls_too(world: World) -> None:
    compatible = rules(10, Mode.CONSUME)
    assert [(await world.take(6, compatible)).over for _ in range(3)] == [False, True, True]
    over = await world.take(0, compatible)
    assert (over.over, over.statuses[0].remaining) == (True, 0)


async def test_count_equal_to_the_limit_is_not_over(world: World) -> None:
    assert not (await world.take(10, rules(10, Mode.CONSUME))).over
    assert not (await world.take(0, rules(10, Mode.CONSUME))).over


async def test_hits_of_the_descriptor_win_over_those_of_the_request(world: World) -> None:
    await world.ask(rules(), world.descriptor("a", None), addend=3)
    assert await world.used() == 3
    await world.ask(rules(), world.descriptor("a", 0), addend=3)
    assert await world.used() == 3
    await world.ask(rules(), world.descriptor("a", None))
    assert await world.used() == 4


async def test_zero_blocks_always(world: World) -> None:
    assert (await world.take(1, rules(0))).over
    assert not (await world.take(0, rules(0))).over


@pytest.mark.parametrize("algorithm", Algorithm)
async def test_a_strict_check_passes_while_one_is_left(world: World, algorithm: Algorithm) -> None:
    rule = Rule(Rate(2, Unit.MINUTE), algorithm=algorithm, strict=True, label="a")
    strict = RuleSet({"d": (Node("key", None, children=(Node("limit", "a", rule),)),)})
    overs = []
    for hits in (0, 1, 0, 1, 0):
        overs.append((await world.take(hits, strict)).over)
    assert overs == [False, False, False, False, True]
    world.now += 29.5  # half a bucket is filled in 30 seconds
    assert (await world.take(0, strict)).over
    world.now += 120
    assert not (await world.take(2, strict)).over


def test_a_rule_in_the_shadow_keeps_no_other_from_counting() -> None:
    shadow, plain = Rule(Rate(0, Unit.DAY), shadow=True), Rule(Rate(5, Unit.DAY))
    rule_set = RuleSet({"d": (Node("shadow", None, shadow), Node("plain", None, plain))})
    both = (Descriptor((("shadow", "x"),)), Descriptor((("plain", "x"),)))
    limiter = Limiter(MemoryStore(), lambda: NOW, options=Options(stop_when_over=True, local_cache_bytes=10_000))
    remaining = []
    for _ in range(3):
        decision = limiter.decide(rule_set, LimitRequest("d", both))
        assert isinstance(decision, Decision)
        remaining.append(decision.statuses[1].remaining)
    assert remaining == [4, 3, 2]


@pytest.mark.parametrize("algorithm", Algorithm)
async def test_what_is_given_back_is_where_it_was_counted(algorithm: Algorithm) -> None:
    """A limit per second has a store of its own."""
    rule = Rule(Rate(5, Unit.SECOND), algorithm=algorithm)
    rule_set = RuleSet({"d": (Node("k", None, rule),)})
    limiter = Limiter(SplitStore(MemoryStore(), MemoryStore()), lambda: NOW)
    remaining = []
    for hits in (4, -3, 0):
        decision = limiter.decide(rule_set, LimitRequest("d", (Descriptor((("k", "x"),), hits),)))
        decided = await decision if inspect.isawaitable(decision) else decision
        remaining.append(decided.statuses[0].remaining)
    assert remaining == [1, 4, 4]


async def test_a_window_ends(world: World) -> None:
    assert not (await world.take(10)).over
    world.now += Rate(1, Unit.MINUTE).until_reset(NOW) - 1
    decision = await world.take(1)
    assert (decision.over, decision.statuses[0].reset_seconds) == (True, 1)
    world.now += 1
    decision = await world.take(1)
    assert (decision.over, decision.statuses[0].reset_seconds, decision.statuses[0].remaining) == (False, 60, 9)


async def test_one_refused_descriptor_reserves_none(world: World) -> None:
    await world.take(8, what="b")
    decision = await world.ask(rules(), world.descriptor("a", 5), world.descriptor("b", 5))
    assert (decision.over, [status.over for status in decision.statuses]) == (True, [False, True])
    assert decision.reservations == ()
    assert (await world.used("a"), await world.used("b")) == (0, 8)


async def test_the_same_counter_twice_in_one_decision(world: World) -> None:
    assert (await world.ask(rules(), world.descriptor("a", 6), world.descriptor("a", 6))).over
    assert await world.used() == 0
    assert not (await world.ask(rules(), world.descriptor("a", 5), world.descriptor("a", 5))).over
    assert await world.used() == 10


async def test_settling_up_down_and_to_the_same(world: World) -> None:
    decision = await world.take(6)
    reservation = str(dict(decision.reservations)["a"])
    assert reservation == f"6@{NOW}"
    assert not (await world.settle(2, reservation)).over
    assert await world.used() == 2
    assert not (await world.settle(9, "6@" + str(NOW))).over
    assert await world.used() == 5
    await world.settle(6, reservation)
    assert await world.used() == 5


async def test_settling_beyond_the_limit_is_never_refused_and_blocks_what_comes(world: World) -> None:
    await world.take(6)
    settled = await world.settle(500, f"6@{NOW}")
    assert (settled.over, settled.reservations) == (False, ())
    assert await world.used() == 500
    assert (await world.take(1)).over


async def test_settling_never_falls_below_zero(world: World) -> None:
    await world.settle(0, f"9@{NOW}")
    assert await world.used() == 0
    await world.take(3)
    await world.settle(0, f"9@{NOW}")
    assert await world.used() == 0


async def test_nobody_can_have_reserved_more_than_the_limit(world: World) -> None:
    await world.take(3)
    await world.settle(0, f"11@{NOW}")
    assert await world.used() == 3
    await world.settle(2, f"{10**18}@{NOW}")
    assert await world.used() == 5


async def test_settling_after_the_window_charges_only_the_excess(world: World) -> None:
    await world.take(6)
    world.now += 60
    await world.take(2)
    await world.settle(1, f"6@{NOW}")
    assert await world.used() == 2
    await world.settle(9, f"6@{NOW}")
    assert await world.used() == 5


async def test_a_malformed_settlement_charges_all(world: World) -> None:
    await world.settle(4, "nonsense")
    assert await world.used() == 4


async def test_unlimited_and_unknown_ask_no_store(world: World) -> None:
    unlimited = RuleSet({"d": (Node("key", None, Rule(Rate(1, Unit.SECOND), unlimited=True)),)})
    decision = world.limiter.decide(
        unlimited, LimitRequest("d", (Descriptor((("key", "x"),)), Descriptor((("no", "x"),))))
    )
    assert isinstance(decision, Decision)
    assert [status.remaining for status in decision.statuses] == [UNLIMITED_REMAINING, 0]
    assert [status.rate for status in decision.statuses] == [None, None]


def test_unlimited_is_never_replaced() -> None:
    free, boss = Rule(Rate(1, Unit.SECOND), name="free", unlimited=True), Rule(Rate(5, Unit.DAY), replaces=("free",))
    rule_set = RuleSet({"d": (Node("free", None, free), Node("boss", None, boss))})
    both = (Descriptor((("free", "x"),)), Descriptor((("boss", "x"),)))
    decision = Limiter(MemoryStore(), lambda: NOW).decide(rule_set, LimitRequest("d", both))
    assert isinstance(decision, Decision)
    assert [status.remaining for status in decision.statuses] == [UNLIMITED_REMAINING, 4]


def test_a_domain_without_rules_is_told_for_each_descriptor() -> None:
    class Told(Unobserved):
        domains: tuple[str, ...] = ()

        def domain_not_found(self, domain: str) -> None:
            self.domains += (domain,)

    told = Told()
    Limiter(MemoryStore(), lambda: NOW, told).decide(rules(), LimitRequest("e", (Descriptor(()), Descriptor(()))))
    assert told.domains == ("e", "e")


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (LimitRequest("", (Descriptor(()),)), "domain must not be empty"),
        (LimitRequest("d", ()), "descriptor list must not be empty"),
    ],
)
def test_questions_without_sense(request_: LimitRequest, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        Limiter(MemoryStore(), time.time).decide(rules(), request_)


async def test_64_at_once_never_pass_the_limit(world: World) -> None:
    limit = rules(100)
    decisions = await asyncio.gather(*(world.take(3, limit) for _ in range(64)))
    assert sum(not decision.over for decision in decisions) == 33
    assert await world.used() == 99


def test_the_embedded_store_answers_at_once() -> None:
    decision = Limiter(MemoryStore(), lambda: NOW).decide(
        rules(), LimitRequest("d", (Descriptor((("key", "x"), ("limit", "a"))),))
    )
    assert isinstance(decision, Decision)


async def test_redis_counters_expire(redis_server: RedisServer) -> None:
    store = RedisStore(connect(redis_server.url, timeout=5))
    await store.apply(
        [Operation("ttl-test", Action.RESERVE, 1, 5, 65), Operation("ttl-none", Action.RESERVE, 0, 5, 65)], 0
    )
    async with Redis.from_url(redis_server.url) as client:
        assert 60 < await client.ttl("ttl-test") <= 65
        assert await client.exists("ttl-none") == 0
    await store.close()


async def test_a_flushed_script_is_loaded_again(redis_server: RedisServer) -> None:
    store = RedisStore(connect(redis_server.url, timeout=5))
    world = World(store)
    async with Redis.from_url(redis_server.url) as client:
        await world.take(1)
        await client.script_flush()
        await world.take(1)
        assert await world.used() == 2
        await client.script_flush()
    decision = await world.ask(rules(10, Mode.CONSUME), world.descriptor("a", 1), world.descriptor("b", 1))
    assert not decision.over
    await store.close()


async def test_a_dead_redis_is_a_transient_error_and_it_comes_back(own_redis: RedisServer) -> None:
    store = open_store(own_redis.url)
    world = World(store)
    await world.take(1)
    own_redis.kill()
    started = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await world.take(1)
    assert caught.value.transient
    assert time.monotonic() - started < 2
    with pytest.raises(StoreError):
        await store.ping()
    own_redis.start()
    assert not (await world.take(1)).over
    await store.close()


async def test_a_value_that_is_no_counter_is_an_error_that_lasts(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        await client.lpush("not-a-counter", "x")
    store = RedisStore(connect(redis_server.url, timeout=5))
    with pytest.raises(StoreError) as caught:
        await store.apply([Operation("not-a-counter", Action.ADD, 1, 5, 65)], 0)
    assert not caught.value.transient
    await store.close()


@pytest.mark.parametrize("url", ["postgres://x", "memory", "redis:/x", ""])
def test_a_store_that_does_not_exist(url: str) -> None:
    with pytest.raises(ConfigError):
        open_store(url)


def test_the_embedded_store_stays_within_its_bound() -> None:
    store = MemoryStore(max_counters=1_000)
    for number in range(5_000):
        store.apply([Operation(f"k{number}", Action.ADD, 1, 5, 60)], now=0)
    assert len(store) == 1_000
    assert store.evicted == 4_000


def test_the_embedded_store_forgets_what_expired() -> None:
    store = MemoryStore()
    for number in range(1_000):
        store.apply([Operation(f"k{number}", Action.ADD, 1, 5, 60)], now=0)
    for _ in range(200):
        store.apply([Operation("other", Action.ADD, 1, 5, 600)], now=61)
    assert len(store) == 1


operations = st.lists(
    st.lists(
        st.builds(
            Operation,
            key=st.sampled_from(["{t}x", "{t}y", "{u}z"]),
            action=st.sampled_from(Action),
            hits=st.integers(0, 12),
            limit=st.integers(0, 30),
            ttl=st.just(1_000),
        ).map(
            lambda one: (
                one
                if one.action is not Action.ADJUST
                else Operation(one.key, one.action, one.hits - 6, one.limit, one.ttl)
            )
        ),
        min_size=1,
        max_size=4,
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(decisions=operations)
def test_memory_and_redis_agree(decisions: list[list[Operation]], redis_server: RedisServer) -> None:
    """Within one slot; across slots: `storage/test_same_answers.py`."""
    prefix = f"{time.time_ns()}"
    memory = MemoryStore()

    async def compare() -> None:
        redis = RedisStore(connect(redis_server.url, timeout=5))
        for decision in decisions:
            slot = decision[0].key[:3]
            together = [
                Operation(f"{{{prefix}{slot[1]}}}{one.key[3:]}", one.action, one.hits, one.limit, one.ttl)
                for one in decision
                if one.key.startswith(slot)
            ]
            expected: Sequence[Count] = memory.apply(together, 0)
            assert await redis.apply(together, 0) == expected
        await redis.close()

    asyncio.run(compare())
