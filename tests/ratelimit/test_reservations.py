"""Reservations, settling and watching, on both stores: what one decision may leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ratelimit.errors import RequestError
from ratelimit.limiter import Ended, Limiter, LimitRequest, Unobserved
from ratelimit.rules import Descriptor, Limit, Node, Rate, RuleSet, Settlement, Unit
from ratelimit.storage import Count, MemoryStore, Operation, Store
from sidecar.errors import StoreError
from tests.ratelimit.factories import (
    NOON,
    Clock,
    House,
    caller,
    requests,
    reserve,
    settle,
    tenant_rules,
    tokens,
)


@pytest.fixture
def house(store: Store, clock: Clock, domain: str) -> House:
    return House(Limiter(store, clock), tenant_rules(domain), domain)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (LimitRequest("", (tokens(1),)), "rate limit domain must not be empty"),
        (LimitRequest("d", ()), "rate limit descriptor list must not be empty"),
        (LimitRequest("d", (tokens(1),)), "no rate limit configuration loaded"),
    ],
)
def test_refuses_a_question_without_sense(request_: LimitRequest, text: str) -> None:
    with pytest.raises(RequestError, match=f"^{text}$"):
        Limiter(MemoryStore(), Clock()).decide(None, request_)


@pytest.mark.parametrize(("own", "addend", "counted"), [(None, 0, 1), (None, 7, 7), (5, 7, 5), (0, 7, 0)])
async def test_a_descriptors_own_hits_win(house: House, own: int | None, addend: int, counted: int) -> None:
    descriptor = Descriptor((("key", "team-a"), ("limit", "tokens")), own)
    decision = await house.ask(descriptor, hits_addend=addend)
    assert decision.statuses[0].hits == counted
    assert await house.left(tokens(0)) == [1000 - counted]


async def test_every_descriptor_counts_though_one_is_over(house: House) -> None:
    decision = await house.ask(caller("192.0.2.1", 3), caller("192.0.2.2", 1))
    assert [one.over for one in decision.statuses] == [True, False]
    assert decision.over
    assert await house.left(caller("192.0.2.2")) == [1]


async def test_the_same_descriptor_twice_counts_twice(house: House) -> None:
    decision = await house.ask(caller(hits=2), caller(hits=2))
    assert [one.over for one in decision.statuses] == [False, True]


async def test_an_override_replaces_the_rule(house: House) -> None:
    override = Descriptor((("ip", "192.0.2.1"),), 1, Rate(1, Unit.HOUR))
    first, second = await house.ask(override), await house.ask(override)
    assert (first.over, second.over) == (False, True)
    assert first.statuses[0].rate == Rate(1, Unit.HOUR)


async def test_a_reservation_is_counted_and_handed_out(house: House) -> None:
    decision = await house.ask(requests(), tokens(400))
    assert not decision.over
    assert decision.reservations == (("requests", Settlement(1, NOON)), ("tokens", Settlement(400, NOON)))
    assert await house.left(requests(), tokens(0)) == [99, 600]


async def test_a_denied_reservation_consumes_nothing_anywhere(house: House) -> None:
    decision = await house.ask(requests(), tokens(1001))
    assert [one.over for one in decision.statuses] == [False, True]
    assert decision.reservations == ()
    assert await house.left(requests(), tokens(0)) == [100, 1000]


async def test_a_reservation_is_given_back_when_another_tenant_denies(house: House) -> None:
    decision = await house.ask(tokens(10, "team-a"), tokens(1001, "team-b"), tokens(20, "team-c"))
    assert decision.over
    assert [one.remaining for one in decision.statuses] == [1000, 1000, 1000]
    assert await house.left(tokens(0, "team-a"), tokens(0, "team-b"), tokens(0, "team-c")) == [1000, 1000, 1000]


async def test_what_was_reserved_twice_is_given_back_twice(house: House) -> None:
    decision = await house.ask(tokens(10, "team-a"), tokens(20, "team-a"), tokens(1001, "team-b"))
    assert [one.remaining for one in decision.statuses] == [1000, 1000, 1000]
    assert await house.left(tokens(0, "team-a")) == [1000]


async def test_a_reservation_is_given_back_when_a_consuming_limit_denies(house: House) -> None:
    decision = await house.ask(requests(), tokens(10), caller(hits=3))
    assert decision.over
    assert decision.reservations == ()
    assert await house.left(requests(), tokens(0), caller()) == [100, 1000, 0]


async def test_a_denied_reservation_lets_the_consuming_limit_count(house: House) -> None:
    assert (await house.ask(tokens(1001), caller(hits=1))).over
    assert await house.left(caller()) == [1]


async def test_tenants_do_not_share(house: House) -> None:
    await house.ask(tokens(1000, "a{"))
    assert await house.left(tokens(0, "a{"), tokens(0, "a("), tokens(0, "a%7B")) == [0, 1000, 1000]


async def test_settles_down_to_what_was_used(house: House) -> None:
    reservation = (await house.ask(tokens(400))).reservations[0][1]
    decision = await house.ask(settle(str(reservation), 150))
    assert not decision.over
    assert decision.reservations == ()
    assert decision.statuses[0].remaining == 850


async def test_a_disconnect_settles_with_the_estimate(house: House) -> None:
    reservation = (await house.ask(tokens(400))).reservations[0][1]
    await house.ask(settle(str(reservation), 400))
    assert await house.left(tokens(0)) == [600]


async def test_a_reservation_from_a_clock_ahead_takes_nothing_from_this_window(house: House) -> None:
    await house.ask(tokens(100))
    await house.ask(settle(f"400@{NOON + 60}", 150))
    assert await house.left(tokens(0)) == [900]


@pytest.mark.parametrize("text", ["", "nonsense", "-400@0", "400", "@", "400@soon"])
async def test_a_malformed_settlement_charges_the_real_usage(house: House, text: str) -> None:
    assert not (await house.ask(settle(text, 150))).over
    assert await house.left(tokens(0)) == [850]


async def test_settling_is_neither_denied_nor_stopped_by_a_denial(house: House) -> None:
    decision = await house.ask(settle("", 150), caller(hits=3))
    assert [one.over for one in decision.statuses] == [False, True]
    assert await house.left(tokens(0)) == [850]


async def test_a_counter_stops_where_it_can_still_be_counted(house: House) -> None:
    descriptor = Descriptor((("ip", "192.0.2.9"),), 2**64 - 1)
    decision = await house.ask(*[descriptor] * 10_000)
    assert decision.over
    assert (await house.ask(caller("192.0.2.9"))).over


async def test_negative_hits_give_back_what_was_counted_and_no_more(house: House) -> None:
    await house.ask(tokens(10))
    assert not (await house.ask(tokens(-5))).over
    assert await house.left(tokens(0)) == [995]
    await house.ask(tokens(-50))
    assert await house.left(tokens(0)) == [1000]


async def test_more_at_once_than_there_are_connections(house: House) -> None:
    decisions = await asyncio.gather(*(house.ask(requests(tenant="crowd")) for _ in range(200)))
    assert sum(not one.over for one in decisions) == 100


class Watcher(Unobserved):
    def __init__(self) -> None:
        self.seen: list[object] = []

    def decided(self, limit: Limit, hits: int, count: int, over: bool, local: bool) -> None:
        self.seen.append((limit.rule.label, over, hits, count, local))

    def store_seconds(self, seconds: float) -> None:
        self.seen.append(seconds)

    def store_failed(self, error: StoreError) -> None:
        self.seen.append(("failed", error.transient))


async def test_tells_each_limit_and_the_time_of_a_store_that_is_waited_for(
    store: Store, clock: Clock, domain: str
) -> None:
    watcher, ticks = Watcher(), iter([5.0, 5.25])
    limiter = Limiter(store, clock, watcher, timer=lambda: next(ticks))
    house = House(limiter, tenant_rules(domain), domain)
    await house.ask(requests(), tokens(2000), settle("", 3), Descriptor((("unknown", "x"),)))
    times = [] if isinstance(store, MemoryStore) else [0.25]
    assert watcher.seen == [*times, ("requests", False, 1, 0, False), ("tokens", True, 2000, 0, False)]


class BrokenStore(MemoryStore):
    def apply(self, operations: Sequence[Operation], now: float) -> list[Count]:
        raise StoreError("gone", transient=True)


def test_a_store_that_fails_is_no_verdict(domain: str) -> None:
    watcher = Watcher()
    limiter = Limiter(BrokenStore(), Clock(), watcher)
    with pytest.raises(StoreError, match="gone"):
        limiter.decide(tenant_rules(domain), LimitRequest(domain, (tokens(1),)))
    assert watcher.seen == [("failed", True)]


async def test_window_lengths_differ_within_one_request(store: Store, clock: Clock, domain: str) -> None:
    limits = (
        Node("limit", "day", reserve(5, "day", Unit.DAY)),
        Node("limit", "minute", reserve(3, "minute")),
    )
    house = House(Limiter(store, clock), RuleSet({domain: (Node("key", None, None, limits),)}), domain)
    both = [Descriptor((("key", "a"), ("limit", what)), 3) for what in ("day", "minute")]
    assert not (await house.ask(*both)).over
    clock.now = NOON + 60
    decision = await house.ask(*both)
    assert [one.over for one in decision.statuses] == [True, False]
    assert await house.left(*both) == [2, 3]


async def test_many_calls_settled_together_are_many_settled_one_by_one(house: House, clock: Clock) -> None:
    """Over- and under-estimates, two tenants, an older window, and a rule that reserves nothing."""
    for tenant in ("team-a", "team-b"):
        for _ in range(4):
            await house.ask(tokens(100, tenant))
    used = [("team-a", 30, NOON), ("team-a", 250, NOON), ("team-b", 0, NOON), ("team-a", 130, NOON - 60)]
    limiter = house.limiter
    calls = [Ended((("key", tenant), ("limit", "tokens")), Settlement(100, at), hits) for tenant, hits, at in used] + [
        Ended((("ip", "192.0.2.1"),), Settlement(5, NOON), 1)
    ]
    waiting = limiter.settle(house.rules, house.domain, calls)
    if waiting is not None:
        await waiting
    # 400 reserved; -70 and +150 in this window; 130 used of 100 in the one before owes 30 here.
    assert await house.left(tokens(0, "team-a"), tokens(0, "team-b")) == [1000 - 510, 1000 - 300]
    assert await house.left(caller("192.0.2.1", 0)) == [2]


def test_a_store_that_fails_is_told_of_once_for_all() -> None:
    class Failing(MemoryStore):
        def apply(self, operations: Sequence[Operation], now: float) -> list[Count]:
            raise StoreError("gone", transient=True)

    limiter = Limiter(Failing(), Clock())
    call = Ended((("key", "team-a"), ("limit", "tokens")), Settlement(100, NOON), 1)
    with pytest.raises(StoreError):
        limiter.settle(tenant_rules("d"), "d", [call, call])
