"""Single flight in one process."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from extproc.cache.flight import Flights, Leader, Outcome, Waiter
from extproc.cache.store import MemoryStore
from tests.extproc.cache_store.factories import Clock, key

KEY = key("a")


def lead(flights: Flights, name: bytes = KEY) -> Leader:
    joined = flights.join(name)
    assert isinstance(joined, Leader)
    return joined


def follow(flights: Flights, name: bytes = KEY) -> Waiter:
    joined = flights.join(name)
    assert isinstance(joined, Waiter)
    return joined


async def test_all_who_wait_have_the_leaders_value() -> None:
    flights = Flights(Clock())
    leader = lead(flights)
    waits = [asyncio.create_task(follow(flights).wait(60)) for _ in range(3)]
    await asyncio.sleep(0)
    leader.land(b"v")
    assert await asyncio.gather(*waits) == [b"v"] * 3
    assert len(flights) == 0
    lead(flights)


async def test_keys_do_not_wait_for_each_other() -> None:
    flights = Flights(Clock())
    lead(flights)
    lead(flights, key("b"))


async def test_when_the_leader_fails_exactly_one_takes_over() -> None:
    flights = Flights(Clock())
    leader = lead(flights)
    waits = [asyncio.create_task(follow(flights).wait(60)) for _ in range(3)]
    await asyncio.sleep(0)
    leader.fail()
    next_one = await waits[0]
    assert isinstance(next_one, Leader)
    leader.land(b"too late")
    leader.fail()
    assert not waits[1].done()
    next_one.land(b"v")
    assert await waits[1] == await waits[2] == b"v"


async def test_what_cannot_be_shared_lets_all_go() -> None:
    flights = Flights(Clock())
    leader = lead(flights)
    waits = [asyncio.create_task(follow(flights).wait(60)) for _ in range(3)]
    await asyncio.sleep(0)
    leader.disband()
    assert await asyncio.gather(*waits) == [None] * 3
    assert len(flights) == 0


async def test_nobody_waits_longer_than_its_deadline() -> None:
    flights = Flights(Clock())
    leader = lead(flights)
    assert await follow(flights).wait(0.01) is None
    assert await follow(flights).wait(0) is None
    leader.fail()
    assert len(flights) == 0


async def test_a_waiter_whose_client_leaves_is_passed_over() -> None:
    flights = Flights(Clock())
    leader = lead(flights)
    first, second = (asyncio.create_task(follow(flights).wait(60)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    leader.fail()
    assert isinstance(await second, Leader)


async def test_a_waiter_that_leaves_just_when_it_is_its_turn_passes_it_on() -> None:
    flights = Flights(Clock())
    leader = lead(flights)
    first, second = (asyncio.create_task(follow(flights).wait(60)) for _ in range(2))
    await asyncio.sleep(0)
    leader.fail()
    first.cancel()  # before it could hear of it
    with pytest.raises(asyncio.CancelledError):
        await first
    assert isinstance(await second, Leader)


async def test_a_waiter_whose_time_is_over_just_when_it_is_its_turn_takes_it() -> None:
    flights = Flights(Clock())
    leader, waiter = lead(flights), follow(flights)
    wait = asyncio.create_task(waiter.wait(60))
    await asyncio.sleep(0)
    leader.fail()
    waiter._give_up()  # the timer, in the same turn of the loop
    assert isinstance(await wait, Leader)


async def test_what_is_known_before_the_wait_is_not_waited_for() -> None:
    flights = Flights(Clock())
    leader, waiter = lead(flights), follow(flights)
    leader.land(b"v")
    assert await waiter.wait(60) == b"v"


def test_one_that_leaves_without_having_waited() -> None:
    flights = Flights(Clock())
    leader, first, second = lead(flights), follow(flights), follow(flights)
    first.leave()
    leader.fail()
    assert isinstance(second.outcome, Leader)
    second.leave()
    assert len(flights) == 0


async def test_a_leader_that_never_ends_is_followed_by_another() -> None:
    clock = Clock()
    flights = Flights(clock, longest=600)
    lost = lead(flights)
    waiter = follow(flights)
    clock.now += 601
    found = lead(flights)
    lost.land(b"old")
    assert not waiter.settled
    found.land(b"new")
    assert await waiter.wait(60) == b"new"


async def race(clients: int, *, spoilt: int = 0) -> tuple[int, list[bytes]]:
    """How often upstream is asked when so many ask the same; the first `spoilt` answers fail."""
    flights, store, asked = Flights(Clock()), MemoryStore(1 << 20, Clock()), 0

    async def client() -> bytes:
        nonlocal asked
        found = store.get(KEY)
        if found is not None:
            return found
        joined = flights.join(KEY)
        outcome: Outcome = joined if isinstance(joined, Leader) else await joined.wait(60)
        if isinstance(outcome, bytes):
            return outcome
        asked += 1
        number = asked
        await asyncio.sleep(0.01)
        assert isinstance(outcome, Leader)
        if number <= spoilt:
            outcome.fail()
            return b"error"
        store.put(KEY, b"answer", 60, [])
        outcome.land(b"answer")
        return b"answer"

    answers = await asyncio.gather(*(client() for _ in range(clients)))
    assert len(flights) == 0
    return asked, answers


async def test_64_clients_ask_once() -> None:
    assert await race(64) == (1, [b"answer"] * 64)


async def test_64_clients_ask_again_only_when_it_failed() -> None:
    asked, answers = await race(64, spoilt=3)
    assert (asked, answers.count(b"error")) == (4, 3)


class Traffic(RuleBasedStateMachine):
    """Requests for two keys that come, wait, leave, lead and end, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.flights = Flights(self.clock, longest=100)
        self.leaders: dict[bytes, Leader] = {}
        self.waiters: list[Waiter] = []
        self.stale: list[Leader] = []

    @rule(name=st.sampled_from((key("a"), key("b"))), seconds=st.sampled_from((0, 0, 30, 101)))
    def join(self, name: bytes, seconds: float) -> None:
        self.clock.now += seconds
        joined = self.flights.join(name)
        if isinstance(joined, Waiter):
            assert name in self.leaders  # nobody waits for nothing
            self.waiters.append(joined)
            return
        if name in self.leaders:
            self.stale.append(self.leaders.pop(name))
        self.leaders[name] = joined

    @rule(name=st.sampled_from((key("a"), key("b"))), how=st.sampled_from(("land", "fail", "disband")))
    def end(self, name: bytes, how: str) -> None:
        leader = self.leaders.pop(name, None)
        if leader is None:
            return
        waiting = [waiter for waiter in self.waiters if waiter.key == name]
        self.stale.append(leader)
        if how == "fail":
            leader.fail()
            if waiting:
                first = waiting[0]
                assert isinstance(first.outcome, Leader)
                self.leaders[name] = first.outcome
                self.waiters.remove(first)
                waiting = waiting[1:]
            assert not any(waiter.settled for waiter in waiting)
            return
        if how == "land":
            leader.land(b"v")
        else:
            leader.disband()
        for waiter in waiting:
            assert waiter.settled
            assert waiter.outcome == (b"v" if how == "land" else None)
            self.waiters.remove(waiter)

    @rule(number=st.integers(0, 20))
    def leave(self, number: int) -> None:
        if number < len(self.waiters):
            waiter = self.waiters.pop(number)
            waiter.leave()
            assert waiter.settled
            assert waiter.outcome is None

    @rule(number=st.integers(0, 20), how=st.sampled_from(("land", "fail", "disband")))
    def a_late_word_is_not_heard(self, number: int, how: str) -> None:
        if number < len(self.stale):
            stale = self.stale[number]
            stale.land(b"old") if how == "land" else stale.fail() if how == "fail" else stale.disband()

    @invariant()
    def one_leader_each(self) -> None:
        assert set(self.flights._flights) == set(self.leaders)
        for name, flight in self.flights._flights.items():
            assert flight.leader is self.leaders[name]
            assert list(flight.waiters) == [waiter for waiter in self.waiters if waiter.key == name]
        assert not any(waiter.settled for waiter in self.waiters)


Traffic.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTraffic = Traffic.TestCase
