"""Single flight across processes, over a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from extproc.cache.flight import Leader, Outcome
from extproc.cache.shared_flight import SharedFlights
from extproc.cache.store import CacheStore, Everything, Locks, SealedStore
from extproc.cache.store.names import Names
from extproc.cache.store.script import answer, send
from extproc.cache.vault import Vault
from tests.extproc.cache_store.factories import key, names, redis_store, until
from tests.redis_server import RedisServer

KEY = key("a")


class Process:
    """What one process has: connections, a store and flights of its own."""

    def __init__(self, url: str, under: Names, *, lock: float = 5.0, vault: Vault | None = None) -> None:
        self.redis = redis_store(url, under)
        self.store: CacheStore = self.redis if vault is None else SealedStore(self.redis, vault)
        locks = Locks(self.redis._client, under, seconds=lock)
        self.flights = SharedFlights(self.store, locks, time.monotonic, first_pause=0.005, longest_pause=0.02)

    def wait(self, seconds: float = 60.0) -> asyncio.Task[Outcome]:
        return asyncio.create_task(self.flights.join(KEY).wait(seconds))

    async def lead(self) -> Leader:
        outcome = await self.flights.join(KEY).wait(60)
        assert isinstance(outcome, Leader)
        return outcome

    async def put(self, value: bytes, leader: Leader) -> bool:
        kept = self.store.put(KEY, value, 60, ["t"], leader.token)
        return kept if isinstance(kept, bool) else await kept


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


def process(stack: AsyncExitStack, url: str, under: Names, *, lock: float = 5.0, vault: Vault | None = None) -> Process:
    made = Process(url, under, lock=lock, vault=vault)
    stack.push_async_callback(made.redis.close)
    return made


@pytest.fixture
def two(stack: AsyncExitStack, url: str, under: Names) -> tuple[Process, Process]:
    return process(stack, url, under), process(stack, url, under)


async def test_the_other_process_has_the_value(two: tuple[Process, Process]) -> None:
    one, other = two
    leader = await one.lead()
    assert leader.token
    waits = [other.wait(), other.wait(), one.wait()]
    assert await one.put(b"v", leader)
    leader.land(b"v")
    assert await asyncio.gather(*waits) == [b"v"] * 3
    assert (len(one.flights), len(other.flights)) == (0, 0)


async def test_what_was_put_between_the_miss_and_the_join_is_found(two: tuple[Process, Process]) -> None:
    one, other = two
    await one.redis.put(KEY, b"v", 60, [])
    assert await other.wait() == b"v"


async def test_when_a_leader_fails_exactly_one_takes_over(two: tuple[Process, Process]) -> None:
    one, other = two
    leader = await one.lead()
    waits = {other.wait(), other.wait(), one.wait(), one.wait()}
    await asyncio.sleep(0)
    leader.fail()
    done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    next_one = done.pop().result()
    assert isinstance(next_one, Leader)
    assert next_one.token
    assert leader.token
    assert next_one.token > leader.token
    assert not await one.put(b"late", leader)
    owner = one if next_one._flights is one.flights._flights else other
    assert await owner.put(b"v", next_one)
    next_one.land(b"v")
    assert await asyncio.gather(*rest) == [b"v"] * 3


async def test_what_cannot_be_shared_lets_all_go_at_once(two: tuple[Process, Process]) -> None:
    one, other = two
    leader = await one.lead()
    waits = [other.wait(), other.wait(), one.wait(), one.wait()]
    await asyncio.sleep(0.02)
    leader.disband()
    assert list(await asyncio.gather(*waits)) == [None] * 4
    assert (len(one.flights), len(other.flights)) == (0, 0)


async def test_a_leader_that_dies_is_followed_when_its_lock_ends(stack: AsyncExitStack, url: str, under: Names) -> None:
    dying, other = Process(url, under, lock=0.1), process(stack, url, under)
    leader = await dying.lead()
    wait = other.wait()
    await dying.redis.close()  # its renewals go nowhere
    next_one = await asyncio.wait_for(wait, 10)
    assert isinstance(next_one, Leader)
    assert next_one.token
    assert leader.token
    assert next_one.token > leader.token
    next_one.fail()
    leader.fail()


async def test_a_leader_keeps_its_lock_while_it_lives(stack: AsyncExitStack, single_url: str, under: Names) -> None:
    one, other = process(stack, single_url, under, lock=0.9), process(stack, single_url, under)
    leader = await one.lead()
    assert await other.wait(2.0) is None  # more than two lives of the lock
    assert await one.put(b"v", leader)
    leader.land(b"v")


async def test_a_leader_that_ends_renews_no_more(stack: AsyncExitStack, single_url: str, under: Names) -> None:
    one = process(stack, single_url, under, lock=0.09)
    leader = await one.lead()
    leader.fail()
    place = under.lock(KEY)
    began = time.monotonic()
    while time.monotonic() - began < 0.15:
        assert not await answer(send(one.redis._client, place, "EXISTS", place))
        await asyncio.sleep(0.005)


async def test_nobody_waits_longer_than_its_deadline(two: tuple[Process, Process]) -> None:
    one, other = two
    leader = await one.lead()
    began = time.monotonic()
    assert list(await asyncio.gather(other.wait(0.05), other.wait(0.1), one.wait(0.05))) == [None] * 3
    assert time.monotonic() - began < 5
    assert len(other.flights) == 0
    leader.fail()


async def test_a_client_that_leaves_lets_another_ask(two: tuple[Process, Process]) -> None:
    one, other = two
    leader = await one.lead()
    first, second = other.wait(), other.wait()
    await asyncio.sleep(0.02)
    first.cancel()  # it was the one that asked Redis
    with pytest.raises(asyncio.CancelledError):
        await first
    await one.put(b"v", leader)
    leader.land(b"v")
    assert await second == b"v"


async def test_a_client_that_leaves_while_it_gets_the_lock_gives_it_back(two: tuple[Process, Process]) -> None:
    one, other = two
    await one.redis.ping()
    wait = one.wait()
    await asyncio.sleep(0)  # the question is on its way
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    leader = await asyncio.wait_for(other.lead(), 4)  # before the lock would end
    leader.fail()


async def test_one_that_leaves_without_having_waited(two: tuple[Process, Process]) -> None:
    one, _ = two
    first, second = one.flights.join(KEY), one.flights.join(KEY)
    first.leave()
    outcome = await second.wait(60)
    assert isinstance(outcome, Leader)
    outcome.fail()
    assert len(one.flights) == 0


async def test_a_value_that_cannot_be_opened_is_replaced(stack: AsyncExitStack, single_url: str, under: Names) -> None:
    one = process(stack, single_url, under, vault=Vault([bytes(32)]))
    other = process(stack, single_url, under, vault=Vault([bytes(range(32))]))
    leader = await one.lead()
    await one.put(b"v", leader)
    leader.land(b"v")
    found = await other.lead()
    assert found.token is None
    assert await other.put(b"w", found)
    found.land(b"w")
    assert await other.wait() == b"w"


async def test_without_redis_each_process_goes_on_its_own(own_redis: RedisServer) -> None:
    under = names()
    one, other = Process(own_redis.url, under), Process(own_redis.url, under)
    leader = await one.lead()
    waits = [other.wait(), other.wait(), one.wait()]
    await asyncio.sleep(0.01)
    own_redis.kill()
    done, _ = await asyncio.wait(waits[:2], timeout=10, return_when=asyncio.FIRST_COMPLETED)
    alone = done.pop().result()
    assert isinstance(alone, Leader)
    assert alone.token is None
    alone.land(b"mine")
    leader.land(b"v")
    outcomes = await asyncio.gather(*waits)
    assert [outcome for outcome in outcomes if isinstance(outcome, Leader)] == [alone]
    assert sorted(outcome for outcome in outcomes if isinstance(outcome, bytes)) == [b"mine", b"v"]
    began = time.monotonic()
    lonely = await one.lead()
    assert time.monotonic() - began < 1
    assert lonely.token is None
    lonely.fail()
    for each in (one, other):
        await each.redis.close()


async def test_what_redis_refuses_is_done_without_it(stack: AsyncExitStack, url: str, under: Names) -> None:
    one = process(stack, url, under)
    place = under.lock(KEY)
    await answer(send(one.redis._client, place, "LPUSH", place, "no string"))
    leader = await one.lead()
    assert leader.token is None
    wait = one.wait()
    await asyncio.sleep(0)
    leader.land(b"v")
    assert await wait == b"v"


async def race(processes: list[Process], clients: int, *, spoilt: int = 0) -> tuple[int, list[bytes]]:
    """How often upstream is asked when so many ask the same; the first `spoilt` answers fail."""
    asked = 0
    leading = 0

    async def client(process: Process) -> bytes:
        nonlocal asked, leading
        found = await process.redis.get(KEY)
        if found is not None:
            return found
        outcome = await process.flights.join(KEY).wait(60)
        if isinstance(outcome, bytes):
            return outcome
        assert isinstance(outcome, Leader)
        asked += 1
        leading += 1
        assert leading == 1
        number = asked
        await asyncio.sleep(0.03)
        leading -= 1
        if number <= spoilt:
            outcome.fail()
            return b"error"
        assert await process.put(b"answer", outcome)
        outcome.land(b"answer")
        return b"answer"

    answers = await asyncio.gather(*(client(processes[number % len(processes)]) for number in range(clients)))
    return asked, answers


async def test_64_clients_of_two_processes_ask_once(two: tuple[Process, Process]) -> None:
    assert await race(list(two), 64) == (1, [b"answer"] * 64)
    assert await two[0].redis.purge(Everything()) == 1


async def test_64_clients_ask_again_only_when_it_failed(two: tuple[Process, Process]) -> None:
    asked, answers = await race(list(two), 64, spoilt=3)
    assert (asked, answers.count(b"error"), answers.count(b"answer")) == (4, 3, 61)


async def test_a_store_that_fails_to_put_frees_the_key_all_the_same(own_redis: RedisServer) -> None:
    under = names()
    one, other = Process(own_redis.url, under), Process(own_redis.url, under)
    leader = await one.lead()
    wait = one.wait()
    leader.land(b"v")  # nothing was put
    assert await wait == b"v"
    next_one = await other.lead()
    next_one.fail()
    await until(lambda: len(one.flights) == 0, "all have landed")
    for each in (one, other):
        await each.redis.close()
