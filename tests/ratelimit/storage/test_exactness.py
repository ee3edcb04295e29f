"""Reserve and settle, in any order and by many clients at once: never more than the limit is admitted.

The machine knows the algorithms by their references; the stores must give the same verdicts, all or nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from ratelimit.algorithms.base import SECOND, microseconds
from ratelimit.rules import Algorithm
from ratelimit.storage import MemoryStore, RedisStore, Store
from ratelimit.storage.base import Action, Count, Operation
from sidecar.redis import connect
from tests.ratelimit.algorithms.reference import reference
from tests.ratelimit.storage.operations import NOON, operation

_RUN, _NUMBER = uuid4().hex, itertools.count()
_LIMIT, _SECONDS, _BURST = 20, 60, 30
_ANY = st.sampled_from(list(Algorithm))


class Reservations(RuleBasedStateMachine):
    """One tenant with a counter of each algorithm, whose clock goes on. Each call reserves in some of them."""

    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.store = self.open()
        space = f"{_RUN}{next(_NUMBER)}"
        self.keys = {one: f"{{{space}}}_{one.value}" for one in Algorithm}
        self.models = {one: reference(one, _LIMIT, _SECONDS, _BURST) for one in Algorithm}
        self.now = float(NOON)
        self.passed: dict[Algorithm, list[tuple[int, int]]] = {one: [] for one in Algorithm}  # time, what it holds

    def open(self) -> Store:
        return MemoryStore()

    def apply(self, operations: Sequence[Operation]) -> Sequence[Count]:
        answer = self.store.apply(operations, self.now)
        assert isinstance(answer, list)
        return answer

    def operation(self, algorithm: Algorithm, action: Action, hits: int, at: int = 0) -> Operation:
        key = self.keys[algorithm]
        one = operation(key, action, hits, _LIMIT, algorithm=algorithm, seconds=_SECONDS, burst=_BURST, at=at)
        return one._replace(ttl=10**6)

    @rule(seconds=st.sampled_from([0.001, 0.5, 1, 7, 29.9, 60, 200]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=reservations, hits=st.dictionaries(_ANY, st.integers(0, 12), min_size=1))
    def reserve(self, hits: dict[Algorithm, int]) -> object:
        time = microseconds(self.now)
        counts = self.apply([self.operation(one, Action.RESERVE, wanted) for one, wanted in hits.items()])
        for (one, wanted), count in zip(hits.items(), counts, strict=True):
            model = self.models[one]
            assert count.over == (model.in_use(time) + wanted > model.capacity)
        if any(count.over for count in counts):
            return multiple()
        reserved = []
        for (one, wanted), count in zip(hits.items(), counts, strict=True):
            self.models[one].add(wanted, time)
            assert count.value <= self.models[one].capacity or not wanted
            self.passed[one].append((time, wanted))
            reserved.append((one, wanted, int(self.now), len(self.passed[one]) - 1))
        return multiple(*reserved)

    @rule(reservation=consumes(reservations), used=st.integers(0, 25))
    def settle(self, reservation: tuple[Algorithm, int, int, int], used: int) -> None:
        algorithm, reserved, at, place = reservation
        self.apply([self.operation(algorithm, Action.ADJUST, used - reserved, at)])
        self.models[algorithm].correct(used - reserved, at * SECOND, microseconds(self.now))
        time, _ = self.passed[algorithm][place]
        self.passed[algorithm][place] = time, min(used, reserved)

    @rule(algorithm=_ANY, hits=st.integers(1, 12), action=st.sampled_from([Action.ADD, Action.WATCH, Action.STOP]))
    def count(self, algorithm: Algorithm, hits: int, action: Action) -> None:
        (count,) = self.apply([self.operation(algorithm, action, hits)])
        model, time = self.models[algorithm], microseconds(self.now)
        assert count.over == (model.in_use(time) + hits > model.capacity)
        if not count.over:
            self.passed[algorithm].append((time, hits))
        if not count.over or algorithm is Algorithm.FIXED_WINDOW:
            model.add(hits, time)

    @invariant()
    def as_the_references(self) -> None:
        counts = self.apply([self.operation(one, Action.ADD, 0) for one in Algorithm])
        assert [count.value for count in counts] == [
            self.models[one].in_use(microseconds(self.now)) for one in Algorithm
        ]

    @invariant()
    def a_window_holds_no_more_than_the_limit(self) -> None:
        """What was used beyond a reservation is on top: nobody could have known."""
        now, period = microseconds(self.now), _SECONDS * SECOND
        for algorithm, since, most in (
            (Algorithm.SLIDING_LOG, now - period + 1, _LIMIT),
            (Algorithm.SLIDING_WINDOW, now - now % period, _LIMIT),
            (Algorithm.FIXED_WINDOW, 0, _LIMIT),
        ):
            assert sum(held for time, held in self.passed[algorithm] if time >= since) <= most


class ReservationsInRedis(Reservations):
    """The same, of the store that the others share."""

    url = ""

    def open(self) -> Store:
        self.runner = asyncio.Runner()
        return RedisStore(connect(self.url, timeout=5))

    def apply(self, operations: Sequence[Operation]) -> Sequence[Count]:
        async def ask() -> Sequence[Count]:
            answer = self.store.apply(operations, self.now)
            return answer if isinstance(answer, list) else await answer

        return self.runner.run(ask())

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()


TestReservations = Reservations.TestCase
TestReservations.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_reservations_in_redis(redis_url: str) -> None:
    class There(ReservationsInRedis):
        url = redis_url

    run_state_machine_as_test(There, settings=settings(max_examples=20, stateful_step_count=30, deadline=None))


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("where", ["memory", "redis"])
async def test_64_clients_that_reserve_and_settle_never_hold_more_than_the_limit(
    where: str, algorithm: Algorithm, redis_url: str, domain: str
) -> None:
    """Each reserves, uses less, and gives the rest back; time stands, so nothing is ever free by itself."""
    limit, dice = 500, random.Random(64)
    memory = MemoryStore()
    stores = [memory if where == "memory" else RedisStore(connect(redis_url, timeout=5)) for _ in range(8)]
    key, calls = f"{{{domain}}}_t", f"{{{domain}}}_r"
    used, held, most = 0, 0, 0

    async def ask(store: Store, *operations: Operation) -> Sequence[Count]:
        answer = store.apply(operations, NOON)
        await asyncio.sleep(0)
        return answer if isinstance(answer, list) else await answer

    async def client(number: int) -> int:
        nonlocal used, held, most
        store, admitted = stores[number % len(stores)], 0
        for _ in range(12):
            reserved = dice.randrange(1, 30)
            both = (
                operation(key, Action.RESERVE, reserved, limit, algorithm=algorithm),
                operation(calls, Action.RESERVE, 1, 10**6),
            )
            counts = await ask(store, *both)
            if counts[0].over:
                continue
            admitted += 1
            held += reserved
            most = max(most, held)  # what is held and not yet given back, as this client knows it
            assert counts[0].value <= limit
            await asyncio.sleep(0)
            spent = dice.randrange(reserved + 1)
            held -= reserved - spent
            used += spent
            await ask(store, operation(key, Action.ADJUST, spent - reserved, limit, algorithm=algorithm))
        return admitted

    admitted = sum(await asyncio.gather(*(client(number) for number in range(64))))
    assert 0 < used <= limit
    assert most <= limit
    counts = await ask(stores[0], operation(key, Action.ADD, 0, limit, algorithm=algorithm), operation(calls, hits=0))
    assert [count.value for count in counts] == [used, admitted]
    for store in stores:
        await store.close()
