"""Leases: fewer round trips, never more than the limit, and no call denied while its own process holds hits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

import pytest

from ratelimit.leases import Leases
from ratelimit.limiter import Decision, Limiter, LimitRequest
from ratelimit.options import Options
from ratelimit.rules import Descriptor, Mode, Node, OnError, Rate, Rule, RuleSet, Unit
from ratelimit.storage import MemoryStore, Store, open_store
from ratelimit.storage.base import Action, Count, Operation
from sidecar.errors import StoreError
from tests.ratelimit.factories import NOON, Clock, House

MINUTE = Rate(100, Unit.MINUTE)


class Counting(MemoryStore):
    """The embedded store, that knows how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.trips = 0
        self.broken = False

    def apply(self, operations: Sequence[Operation], now: float) -> list[Count]:
        self.trips += 1
        if self.broken:
            raise StoreError("gone", transient=True)
        return super().apply(operations, now)


def rules(lease: int, mode: Mode = Mode.CONSUME, rate: Rate = MINUTE, on_error: OnError = OnError.ERROR) -> RuleSet:
    return RuleSet(
        {
            "d": (
                Node("k", None, Rule(rate, mode, label="k", lease=lease, on_error=on_error)),
                Node("other", None, Rule(Rate(0, Unit.MINUTE), mode, label="other")),
            )
        }
    )


K = Descriptor((("k", "v"),))
DENIED = Descriptor((("other", "v"),))


async def admitted(house: House, calls: int) -> int:
    return sum([not (await house.ask(K)).over for _ in range(calls)])


async def test_spares_round_trips_and_admits_exactly_the_limit(clock: Clock) -> None:
    store = Counting()
    house = House(Limiter(store, clock), rules(20), "d")
    assert await admitted(house, 150) == 100
    assert store.trips < 100  # 50 of them are denials, which are asked each time
    assert house.limiter.saved > 70


async def test_a_new_window_starts_without_what_the_old_one_held(clock: Clock) -> None:
    house = House(Limiter(MemoryStore(), clock), rules(20), "d")
    assert await admitted(house, 10) == 10
    clock.now += 60
    assert await admitted(house, 150) == 100


@pytest.mark.parametrize("mode", list(Mode))
async def test_instances_share_a_limit_and_never_pass_it(clock: Clock, mode: Mode) -> None:
    store = Counting()
    houses = [House(Limiter(store, clock), rules(10, mode), "d") for _ in range(4)]
    passed, denied_at = 0, 0
    for turn in range(400):
        if (await houses[turn % 4].ask(K)).over:
            denied_at = denied_at or passed
        else:
            passed += 1
    assert passed == 100  # what one held when another was denied is used in the end
    assert 100 - denied_at <= 3 * 10


async def test_what_is_left_is_shown_less_what_was_given_out(clock: Clock) -> None:
    house = House(Limiter(MemoryStore(), clock), rules(10), "d")
    shown = [(await house.ask(K)).statuses[0].remaining for _ in range(12)]
    assert shown == list(range(99, 87, -1))


async def test_a_call_that_another_limit_denies_gives_its_hits_back(clock: Clock) -> None:
    house = House(Limiter(MemoryStore(), clock), rules(10, Mode.RESERVE), "d")
    assert await admitted(house, 3) == 3
    for _ in range(20):
        assert (await house.ask(K, DENIED)).over
    assert await admitted(house, 150) == 97


async def test_more_hits_than_a_lease_holds_are_asked_for(clock: Clock) -> None:
    house = House(Limiter(MemoryStore(), clock), rules(10), "d")
    decisions = [await house.ask(Descriptor(K.entries, 30)) for _ in range(4)]
    assert [decision.over for decision in decisions] == [False, False, False, True]


async def test_a_store_that_fails_in_mid_lease_is_asked_again_later(clock: Clock) -> None:
    store = Counting()
    house = House(Limiter(store, clock), rules(10), "d")
    assert await admitted(house, 12) == 12
    store.broken = True
    with pytest.raises(StoreError):
        await admitted(house, 30)
    store.broken = False
    assert await admitted(house, 200) + 12 <= 100


async def test_many_at_once_over_redis(redis_url: str, clock: Clock, domain: str) -> None:
    stores: list[Store] = [open_store(redis_url) for _ in range(3)]
    made = RuleSet({domain: rules(25).domains["d"]})
    houses = [House(Limiter(store, clock), made, domain) for store in stores]
    answers = await asyncio.gather(*(houses[turn % 3].ask(K) for turn in range(300)))
    late = [await houses[turn % 3].ask(K) for turn in range(60)]
    assert sum(not one.over for one in [*answers, *late]) == 100
    for store in stores:
        await store.close()


class Pending(Counting):
    """A store whose answers come when they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    def apply(self, operations: Sequence[Operation], now: float) -> Awaitable[Sequence[Count]]:  # type: ignore[override]
        return self._later(operations, now)

    async def _later(self, operations: Sequence[Operation], now: float) -> list[Count]:
        await self.gate.wait()
        return super().apply(operations, now)


async def test_one_lease_at_a_time_is_asked_for(clock: Clock) -> None:
    store = Pending()
    house = House(Limiter(store, clock), rules(10), "d")
    store.gate.set()
    await house.ask(K)  # how much there is, is known
    store.gate.clear()
    waiting = [asyncio.ensure_future(house.ask(K)) for _ in range(5)]
    await asyncio.sleep(0)
    store.gate.set()
    assert not any(decision.over for decision in await asyncio.gather(*waiting))
    # One of the five asked for ten hits, the others for one each.
    look = Operation(f"d_k_v_{int(clock.now)}", Action.ADD, 0, 1_000, 60)
    assert [count.value for count in await store.apply([look], clock.now)] == [15]


@pytest.mark.parametrize("begun", [True, False], ids=["waiting", "not begun"])
async def test_a_caller_that_gives_up_leaves_its_lease_to_others(clock: Clock, begun: bool) -> None:
    store = Pending()
    house = House(Limiter(store, clock), rules(10), "d")
    store.gate.set()
    await house.ask(K)  # how much there is, is known
    store.gate.clear()
    waiting = asyncio.ensure_future(house.ask(K))
    if begun:
        await asyncio.sleep(0)
    else:
        waiting.cancel()
        waiting = asyncio.ensure_future(house.ask(K))
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    store.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert await admitted(house, 9) == 9
    assert store.trips == 2  # ten hits: one for the caller who left, nine for others
    assert await admitted(house, 1) == 1
    assert store.trips == 3


async def test_a_caller_that_gives_up_on_a_store_that_fails(clock: Clock) -> None:
    store = Pending()
    house = House(Limiter(store, clock), rules(10), "d")
    waiting = asyncio.ensure_future(house.ask(K))
    await asyncio.sleep(0)
    waiting.cancel()
    store.broken = True
    store.gate.set()
    await asyncio.sleep(0.01)
    store.broken = False
    assert await admitted(house, 20) == 20
    assert store.trips < 6  # leases go on


def test_the_oldest_leases_go() -> None:
    leases = Leases()
    for number in range(100_010):
        leases.granted(f"k{number}", 1, 1, 1)
    assert len(leases) == 100_000


@pytest.mark.parametrize(("policy", "over"), [(OnError.OPEN, False), (OnError.CLOSED, True), (OnError.LOCAL, False)])
async def test_a_leased_rule_has_its_policy_too(clock: Clock, policy: OnError, over: bool) -> None:
    store = Counting()
    house = House(Limiter(store, clock, options=Options(on_error=policy)), rules(10), "d")
    store.broken = True
    assert (await house.ask(K)).over is over


HELD = RuleSet(
    {
        "d": (
            Node("k", None, Rule(Rate(100, Unit.MINUTE), lease=10)),
            Node("atom", None, Rule(Rate(100, Unit.MINUTE), Mode.RESERVE, label="atom", lease=10)),
            Node("never", None, Rule(Rate(0, Unit.MINUTE))),
        )
    }
)


def ask(limiter: Limiter, *keys: str, hits: int | None = None) -> Decision:
    decision = limiter.decide(HELD, LimitRequest("d", tuple(Descriptor(((key, "x"),), hits) for key in keys)))
    assert isinstance(decision, Decision)
    return decision


def test_what_is_held_is_not_used() -> None:
    store = Counting()
    limiter = Limiter(store, lambda: NOON)
    assert [ask(limiter, "k").statuses[0].remaining for _ in range(5)] == [99, 98, 97, 96, 95]
    assert store.trips == 2
    assert ask(limiter, "k", hits=0).statuses[0].remaining == 95
    assert ask(limiter, "k", hits=20).statuses[0].remaining == 75  # more than is held: asked for


def test_a_limit_that_is_used_up_elsewhere_is_asked_for_once_a_call() -> None:
    store = Counting()
    one, other = Limiter(store, lambda: NOON), Limiter(store, lambda: NOON)
    ask(one, "k")
    ask(other, "k", hits=99)
    overs = [ask(one, "k").over for _ in range(5)]
    assert overs == [True] * 5
    assert store.trips == 2 + 6  # the first is refused a lease, and then one hit


def test_shadow_mode_keeps_leases() -> None:
    limiter = Limiter(Counting(), lambda: NOON, options=Options(shadow=True))
    for _ in range(11):
        assert not ask(limiter, "never", "atom").over
    assert ask(limiter, "atom", hits=0).statuses[0].remaining == 89
