"""The cache as a decision uses it, over the embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest

from extproc.cache.cache import Cache, Found, Missed, Outcome, tickets_of
from extproc.cache.capture import Captured, Discarded
from extproc.cache.flight import Flights
from extproc.cache.key import make_key
from extproc.cache.question import Question
from extproc.cache.rules import CacheRules
from extproc.cache.store import Everything, MemoryStore
from extproc.cache.unfit import Reason
from extproc.cache.usage import Usage
from sidecar.errors import StoreError

RULES = CacheRules(ttl=100)


class Seen:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def looked_up(self, question: Question, result: str, reason: str) -> None:
        self.told.append(f"{result} {reason}".strip())

    def saved(self, model: str, tokens: int, cost: float | None) -> None:
        self.told.append(f"saved {tokens} {cost}")

    def kept(self, question: Question, size: int) -> None:
        self.told.append("kept")

    def not_kept(self, question: Question, reason: str) -> None:
        self.told.append(f"not kept: {reason}")

    def cache_failed(self, error: StoreError) -> None:
        self.told.append("failed")


class Broken(MemoryStore):
    """Fails when it is told to."""

    fails = False

    def get(self, key: bytes) -> bytes | None:
        if self.fails:
            raise StoreError("down", transient=True)
        return super().get(key)


class House:
    """A cache and all that it stands on; the clock is the test's."""

    def __init__(self, nonce: str = "x", worker: int = 0) -> None:
        self.now = 1000.0
        self.seen = Seen()
        self.store = Broken(1 << 20, self.clock)
        self.flights = Flights(self.clock)
        self.cache = Cache(
            self.store, self.flights, self.seen, self.clock, self.clock,
            wait=30, compress_from=4096, nonce=nonce, worker=worker,
        )  # fmt: skip

    def clock(self) -> float:
        return self.now

    def asks(self, text: str = "q", **how: Any) -> Outcome | Awaitable[Outcome]:
        return self.cache.ask(question(text, **how))

    def leads(self, text: str = "q") -> str:
        outcome = self.asks(text)
        assert isinstance(outcome, Missed)
        assert outcome.ticket
        return outcome.ticket

    def waits(self, text: str = "q") -> asyncio.Future[Outcome]:
        outcome = self.asks(text)
        assert not isinstance(outcome, Found | Missed)
        return asyncio.ensure_future(outcome)


def question(text: str = "q", *, read: bool = True, max_age: int | None = None, only: bool = False) -> Question:
    key = make_key("key", "a", "chat.completions", "m", text.encode())
    return Question(key, "chat.completions", RULES, read, max_age, only)


def answer(body: bytes = b"{}") -> Captured:
    return Captured("application/json", (), body, False, Usage(3, 1, 2))


@pytest.fixture
def house() -> House:
    return House()


def test_miss_keep_hit(house: House) -> None:
    ticket = house.leads()
    assert house.cache.record(ticket) is not None
    house.cache.keep(ticket, answer(b"body"))
    house.now += 7
    found = house.asks()
    assert isinstance(found, Found)
    reply = house.cache.reply(found)
    assert (reply.status, reply.body) == (200, b"body")
    assert ("age", "7") in reply.headers
    assert house.seen.told == ["miss", "kept", "hit"]
    house.now += 94
    assert house.leads()


def test_a_ticket_is_good_once(house: House) -> None:
    ticket = house.leads()
    house.cache.keep(ticket, answer())
    assert house.cache.record(ticket) is None
    house.cache.keep(ticket, answer(b"other"))
    house.cache.lost(ticket)
    found = house.asks()
    assert isinstance(found, Found)
    assert found.entry.body == b"{}"


def test_tickets_of_another_process_are_not_known() -> None:
    old, new = House("one"), House("two")
    ticket = old.leads("theirs")
    other = new.leads("ours")
    assert ticket != other
    assert new.cache.record(ticket) is None
    new.cache.lost(ticket)
    new.cache.keep(ticket, answer())
    assert new.cache.record(other) is not None


def test_who_keeps() -> None:
    ticket = House(worker=12).leads()
    assert [worker for worker in range(200) if ticket.startswith(tickets_of(worker))] == [12]


async def test_who_waits_has_it(house: House) -> None:
    ticket = house.leads()
    waiting = [house.waits() for _ in range(3)]
    await asyncio.sleep(0)
    house.cache.keep(ticket, answer())
    outcomes = await asyncio.gather(*waiting)
    assert [isinstance(one, Found) and one.coalesced for one in outcomes] == [True] * 3
    assert len(house.flights) == 0


@pytest.mark.parametrize("reason", [Reason.STATUS, Reason.CUT, Reason.ERROR, Reason.MALFORMED])
async def test_the_next_one_takes_over(house: House, reason: Reason) -> None:
    ticket = house.leads()
    first, second = house.waits(), house.waits()
    await asyncio.sleep(0)
    house.cache.keep(ticket, Discarded(reason))
    outcome = await first
    assert isinstance(outcome, Missed)
    assert not second.done()
    house.cache.keep(outcome.ticket, answer())
    assert isinstance(await second, Found)


async def test_all_go_alone(house: House) -> None:
    ticket = house.leads()
    waiting = [house.waits() for _ in range(3)]
    await asyncio.sleep(0)
    house.cache.keep(ticket, Discarded(Reason.FINISH))
    outcomes = await asyncio.gather(*waiting)
    assert [isinstance(one, Missed) and one.reason for one in outcomes] == ["waited"] * 3


async def test_all_that_is_under_way_is_lost(house: House) -> None:
    tickets = [house.leads("one"), house.leads("two")]
    waiting = house.waits("one")
    await asyncio.sleep(0)
    house.cache.all_lost()
    assert [house.cache.record(ticket) for ticket in tickets] == [None, None]
    assert house.leads("two")
    assert isinstance(await waiting, Missed)


async def test_the_sweep(house: House) -> None:
    old = house.leads()
    house.now += 100
    young = house.leads("young")
    waiting = house.waits()
    await asyncio.sleep(0)
    house.cache.sweep(50)
    assert isinstance(await waiting, Missed)
    assert house.cache.record(old) is None
    assert house.cache.record(young) is not None


async def test_who_gives_up_while_it_waits(house: House) -> None:
    ticket = house.leads()
    waiting, other = house.waits(), house.waits()
    await asyncio.sleep(0)
    house.cache.give_up(waiting)
    await asyncio.sleep(0)
    house.cache.lost(ticket)
    outcome = await other  # not the one that is gone
    assert isinstance(outcome, Missed)
    assert outcome.ticket


async def test_who_gives_up_when_it_was_just_told(house: House) -> None:
    """It leads by now: that must not be forgotten with it."""
    ticket = house.leads()
    waiting, other = house.waits(), house.waits()
    await asyncio.sleep(0)
    house.cache.lost(ticket)
    for _ in range(5):
        await asyncio.sleep(0)
    assert waiting.done()
    assert not other.done()
    house.cache.give_up(waiting)
    assert isinstance(await other, Missed)


def test_without_a_store(house: House) -> None:
    house.leads()
    house.store.fails = True
    assert house.asks() == Missed("", "store")
    assert house.seen.told == ["miss", "failed", "miss store"]


def test_only_if_cached_leads_nothing(house: House) -> None:
    assert house.asks(only=True) == Missed("", "only_if_cached")
    assert len(house.flights) == 0


def test_not_read_and_too_old(house: House) -> None:
    house.cache.keep(house.leads(), answer(b"old"))
    house.now += 10
    assert isinstance(house.asks(max_age=5), Missed)
    assert isinstance(house.asks(max_age=15), Found)
    fresh = house.asks(read=False)
    assert isinstance(fresh, Missed)
    house.cache.keep(fresh.ticket, answer(b"new"))
    found = house.asks()
    assert isinstance(found, Found)
    assert found.entry.body == b"new"


async def test_what_a_store_gives_is_not_believed(house: House) -> None:
    """Not another key's value, and not rubbish."""
    house.cache.keep(house.leads("theirs"), answer(b"secret"))
    value = house.store.get(question("theirs").key.digest)
    assert value is not None
    for wrong in (value, b"", b"\x01", msgspec.json.encode("x")):
        await house.store.purge(Everything())
        house.store.put(question("ours").key.digest, wrong, 100, ())
        outcome = house.asks("ours")
        assert isinstance(outcome, Missed)
        house.cache.lost(outcome.ticket)
