"""The circuit breaker: when it opens, whom it refuses, how it closes. Time is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

import pytest

from ratelimit.storage import Breaker, Count, MemoryStore, Operation
from sidecar.errors import StoreError
from tests.ratelimit.factories import Clock, settled
from tests.ratelimit.storage.operations import operation

ASKED = [operation("a")]
GONE = StoreError("gone", transient=True)
BROKEN = StoreError("WRONGTYPE", transient=False)


class Scripted(MemoryStore):
    """Answers what it is told: at once, as a future, or from a coroutine."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.error: BaseException | None = None
        self.asked = 0
        self.waiting: list[asyncio.Future[Sequence[Count]]] = []

    def apply(self, operations: Sequence[Operation], now: float) -> list[Count] | Awaitable[Sequence[Count]]:  # type: ignore[override]
        self.asked += 1
        if self.how == "at once":
            if self.error is not None:
                raise self.error
            return [Count(1)]
        future: asyncio.Future[Sequence[Count]] = asyncio.get_running_loop().create_future()
        if self.how.startswith("held"):
            self.waiting.append(future)
        elif self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result([Count(1)])
        return self._later(future) if self.how.endswith("coroutine") else future

    async def _later(self, future: asyncio.Future[Sequence[Count]]) -> Sequence[Count]:
        return await future


HOW = ["at once", "future", "coroutine"]


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


def state(breaker: Breaker) -> str:
    return breaker.state


async def outcome(breaker: Breaker) -> str:
    try:
        answer: Sequence[Count] | Awaitable[Sequence[Count]] = breaker.apply(ASKED, 0)
        await settled(answer)
    except StoreError as error:
        return "refused" if "left alone" in str(error) else "failed"
    return "answered"


async def open_up(breaker: Breaker, store: Scripted) -> None:
    store.error = GONE
    for _ in range(5):
        assert await outcome(breaker) == "failed"
    assert state(breaker) == "open"


@pytest.mark.parametrize("how", HOW)
async def test_opens_after_so_many_failures_in_a_row_and_asks_no_more(how: str, clock: Clock) -> None:
    store = Scripted(how)
    breaker = Breaker(store, clock)
    store.error = GONE
    for _ in range(4):
        assert await outcome(breaker) == "failed"
    store.error = None
    assert await outcome(breaker) == "answered"
    clock.now = 107.0
    await open_up(breaker, store)
    assert (store.asked, breaker.opened, breaker.since) == (10, 1, 107.0)
    with pytest.raises(StoreError, match="left alone after 5 failures") as caught:
        breaker.apply(ASKED, 0)
    assert caught.value.transient
    clock.now += 0.999
    assert await outcome(breaker) == "refused"
    assert store.asked == 10


@pytest.mark.parametrize("how", HOW)
async def test_a_probe_that_is_answered_closes(how: str, clock: Clock) -> None:
    store = Scripted(how)
    breaker = Breaker(store, clock)
    await open_up(breaker, store)
    store.error, clock.now = None, 101.0
    assert await outcome(breaker) == "answered"
    assert (state(breaker), breaker.opened, breaker.since) == ("closed", 1, 101.0)
    store.error = GONE
    assert [await outcome(breaker) for _ in range(4)] == ["failed"] * 4
    assert state(breaker) == "closed"


@pytest.mark.parametrize("how", HOW)
async def test_a_probe_that_fails_opens_for_another_cooldown(how: str, clock: Clock) -> None:
    store = Scripted(how)
    breaker = Breaker(store, clock)
    await open_up(breaker, store)
    clock.now = 101.0
    assert await outcome(breaker) == "failed"
    assert (state(breaker), breaker.opened, breaker.since) == ("open", 1, 100.0)
    clock.now = 101.5
    assert await outcome(breaker) == "refused"
    clock.now = 102.0
    assert await outcome(breaker) == "failed"
    assert store.asked == 7


@pytest.mark.parametrize("how", HOW)
async def test_a_mistake_that_no_retry_mends_is_an_answer(how: str, clock: Clock) -> None:
    store = Scripted(how)
    breaker = Breaker(store, clock)
    store.error = BROKEN
    assert [await outcome(breaker) for _ in range(20)] == ["failed"] * 20
    assert state(breaker) == "closed"
    await open_up(breaker, store)
    store.error, clock.now = BROKEN, 101.0
    assert await outcome(breaker) == "failed"
    assert state(breaker) == "closed"


@pytest.mark.parametrize("how", ["held future", "held coroutine"])
async def test_exactly_one_decision_probes(how: str, clock: Clock) -> None:
    store = Scripted("at once")
    breaker = Breaker(store, clock)
    await open_up(breaker, store)
    clock.now, store.how, asked = 101.0, how, store.asked
    tasks = [asyncio.ensure_future(outcome(breaker)) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (store.asked - asked, state(breaker)) == (1, "half_open")
    store.waiting[0].set_result([Count(1)])
    assert sorted(await asyncio.gather(*tasks)) == ["answered"] + ["refused"] * 9
    assert state(breaker) == "closed"


@pytest.mark.parametrize("how", ["held future", "held coroutine"])
async def test_a_probe_whose_caller_gives_up_makes_room_for_another(how: str, clock: Clock) -> None:
    store = Scripted("at once")
    breaker = Breaker(store, clock)
    await open_up(breaker, store)
    clock.now, store.how = 101.0, how
    probe = asyncio.ensure_future(outcome(breaker))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await outcome(breaker) == "refused"
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert state(breaker) == "open"
    store.how, store.error = "at once", None
    assert await outcome(breaker) == "answered"
    assert state(breaker) == "closed"


async def test_a_probe_that_is_never_heard_of_is_given_up_after_a_cooldown(clock: Clock) -> None:
    store = Scripted("at once")
    breaker = Breaker(store, clock)
    await open_up(breaker, store)
    clock.now, store.how = 101.0, "held future"
    breaker.apply(ASKED, 0)
    assert await outcome(breaker) == "refused"
    clock.now, store.how, store.error = 102.0, "at once", None
    assert await outcome(breaker) == "answered"
    assert state(breaker) == "closed"
    store.waiting[0].set_exception(GONE)
    await asyncio.sleep(0)
    assert state(breaker) == "closed"


@pytest.mark.parametrize("how", ["held future", "held coroutine"])
async def test_callers_that_give_up_say_nothing_about_the_store(how: str, clock: Clock) -> None:
    store = Scripted(how)
    breaker = Breaker(store, clock)
    tasks = [asyncio.ensure_future(outcome(breaker)) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert state(breaker) == "closed"


@pytest.mark.parametrize("how", ["held future", "held coroutine"])
async def test_what_was_asked_before_it_opened_neither_closes_nor_keeps_it_open(how: str, clock: Clock) -> None:
    store = Scripted(how)
    breaker = Breaker(store, clock)
    tasks = [asyncio.ensure_future(outcome(breaker)) for _ in range(8)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for future in store.waiting[:5]:
        future.set_exception(StoreError("gone", transient=True))
    await asyncio.gather(*tasks[:5])
    assert (state(breaker), breaker.opened) == ("open", 1)
    store.waiting[5].set_result([Count(1)])
    await tasks[5]
    assert state(breaker) == "open"
    clock.now, store.how = 101.0, "held coroutine"
    probe = asyncio.ensure_future(outcome(breaker))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.waiting[6].set_exception(StoreError("gone", transient=True))
    store.waiting[7].set_result([Count(1)])
    await asyncio.gather(*tasks[6:])
    assert state(breaker) == "half_open"
    store.waiting[8].set_result([Count(1)])
    assert await probe == "answered"
    assert state(breaker) == "closed"


async def test_an_error_of_ours_is_passed_on_and_no_failure_of_the_store(clock: Clock) -> None:
    store = Scripted("at once")
    breaker = Breaker(store, clock, failures=1)
    store.error = ValueError("ours")
    with pytest.raises(ValueError, match="ours"):
        breaker.apply(ASKED, 0)
    assert state(breaker) == "closed"


async def test_the_rest_of_a_store_goes_through(clock: Clock) -> None:
    store = MemoryStore()
    breaker = Breaker(store, clock)
    breaker.apply(ASKED, 0)
    await breaker.ping()
    await breaker.forget(["a"])
    assert breaker.apply([operation("a", hits=0)], 0) == [Count(0)]
    await breaker.close()
