"""Ten simulated minutes with a provider that fails half of its requests, then is well again."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from extproc.balance.attempt import Attempt, Reason
from extproc.balance.choice import Hints
from extproc.balance.health import Health
from extproc.balance.order import Pool
from extproc.balance.standing import State
from extproc.balance.strategies import Strategy
from tests.extproc.balance.factories import Clock, choice, healthy

_TICK = 0.25  # seconds between two batches of the access log


@dataclass(slots=True)
class Simulation:
    """Requests at an even pace to a (which fails sometimes) and b (which never does), reported in batches."""

    clock: Clock
    health: Health
    pool: Pool
    chance: random.Random
    rate: float = 10.0
    requests: int = 0
    first: int = 0
    transitions: int = 0

    def run(self, seconds: float, failures: float) -> None:
        self.requests = self.first = self.transitions = 0
        state = self.health.standing("a").state
        reports: list[tuple[float, bool]] = []
        end, batch = self.clock.now + seconds, self.clock.now + _TICK
        while self.clock.now < end:
            order = self.pool.order(self.health, Hints(self.chance.random(), self.chance.randbytes(8)))
            self.requests += 1
            if order[0] == 0:
                self.first += 1
                reports.append((self.clock.now, self.chance.random() < failures))
            self.clock.advance(1 / self.rate)
            if self.clock.now >= min(batch, end):
                for began, failed in reports:
                    if failed:
                        took = self.clock.now - began
                        self.health.failed(Attempt("a", Reason.SERVER_ERROR, 500, None, took))
                        self.health.succeeded("b", 0.1)
                    else:
                        self.health.succeeded("a", 0.1, self.clock.now - began)
                reports.clear()
                batch = self.clock.now + _TICK
            now = self.health.standing("a").state
            self.transitions += now is not state
            state = now


def simulation(seed: int, strategy: Strategy = Strategy.WEIGHTED, rate: float = 10.0) -> Simulation:
    clock = Clock()
    choices = [choice("a"), choice("b")]
    health = healthy(clock, *choices)
    return Simulation(clock, health, Pool(choices, strategy, 2), random.Random(seed), rate)


@pytest.mark.parametrize("seed", range(8))
def test_half_of_the_requests_fail(seed: int) -> None:
    run = simulation(seed)
    run.run(600, failures=0.5)
    assert run.transitions <= 40
    assert run.first / run.requests < 0.05
    run.run(140, failures=0.0)
    assert run.health.standing("a").state is State.AVAILABLE
    run.run(60, failures=0.0)
    assert run.transitions == 0
    assert run.first / run.requests == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("strategy", Strategy)
def test_so_with_every_strategy(strategy: Strategy) -> None:
    run = simulation(1, strategy)
    run.run(600, failures=0.5)
    assert run.transitions <= 40
    assert run.first / run.requests < 0.05
    run.run(140, failures=0.0)
    assert run.health.standing("a").state is State.AVAILABLE


@pytest.mark.parametrize("rate", [1.0, 10.0, 200.0])
def test_an_outage_is_seen_soon_and_its_end_too(rate: float) -> None:
    run = simulation(2, rate=rate)
    run.run(60, failures=0.0)
    run.run(max(10.0, 8 / rate), failures=1.0)
    assert run.health.standing("a").state is not State.AVAILABLE
    run.run(300, failures=1.0)
    assert run.first <= 20
    run.run(200 if rate > 1 else 300, failures=0.0)
    assert run.health.standing("a").state is State.AVAILABLE


@pytest.mark.parametrize("rate", [10.0, 200.0])
def test_a_few_failures_take_nothing_away(rate: float) -> None:
    run = simulation(3, rate=rate)
    run.run(600, failures=0.03)
    assert run.first / run.requests > 0.45
