"""In which order targets are tried."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations

import pytest

from extproc.balance.choice import Choice, Hints
from extproc.balance.health import Health
from extproc.balance.notice import Kind, Notice
from extproc.balance.order import Pool
from extproc.balance.strategies import Strategy, drawn
from tests.extproc.balance.chances import critical, fits
from tests.extproc.balance.factories import Clock, attempt, choice, eject, healthy, limited

ORDERS = 2_000
THREE = (choice("a", weight=5), choice("b", weight=3), choice("c", weight=2))


def shares(weights: dict[int, float], length: int) -> dict[tuple[int, ...], float]:
    """The chance of each order in a weighted draw without replacement."""
    found = {}
    for order in permutations(weights, length):
        left, chance = sum(weights.values()), 1.0
        for index in order:
            chance *= weights[index] / left
            left -= weights[index]
        found[order] = chance
    return found


def orders(pool: Pool, health: Health, seed: int = 7, **hints: int) -> Counter[tuple[int, ...]]:
    chance = random.Random(seed)
    return Counter(pool.order(health, Hints(chance.random(), chance.randbytes(6), **hints)) for _ in range(ORDERS))


def firsts(counts: Counter[tuple[int, ...]]) -> Counter[int]:
    found: Counter[int] = Counter()
    for order, count in counts.items():
        found[order[0]] += count
    return found


def clean(order: tuple[int, ...]) -> str:
    return "".join("abcdefgh"[index] for index in order)


def test_the_critical_values() -> None:
    # https://www.itl.nist.gov/div898/handbook/eda/section3/eda3674.htm
    for freedom, value in ((2, 13.816), (5, 20.515), (59, 98.324)):
        assert critical(freedom) == pytest.approx(value, rel=0.03)
    assert not fits({1: 600, 2: 400}, {1: 0.5, 2: 0.5})


# chance


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_weighted(attempts: int) -> None:
    found = orders(Pool(THREE, attempts=attempts), healthy(Clock()))
    assert fits(found, shares({0: 5, 1: 3, 2: 2}, attempts))


def test_weighted_with_more_targets_than_are_kept_ready() -> None:
    many = [choice(name, weight=weight) for name, weight in zip("abcdefgh", (9, 1, 4, 4, 2, 3, 5, 7), strict=True)]
    found = orders(Pool(many, attempts=3), healthy(Clock(), *many))
    assert fits(firsts(found), {index: one.weight / 35 for index, one in enumerate(many)})
    seconds = Counter({order[1]: 0 for order in found})
    for order, count in found.items():
        if order[0] == 0:
            seconds[order[1]] += count
    assert fits(+seconds, {index: one.weight / 26 for index, one in enumerate(many) if index})


def test_both_ways_to_draw_are_the_same() -> None:
    found = Counter(tuple(drawn((0, 1, 2), (5, 3, 2), (step + 0.5) / ORDERS)[0]) for step in range(ORDERS))
    for order, share in shares({0: 5, 1: 3, 2: 2}, 3).items():
        assert found[order] / ORDERS == pytest.approx(share, abs=0.002)


def test_round_robin() -> None:
    pool, health = Pool(THREE, Strategy.ROUND_ROBIN, 3), healthy(Clock())
    found = [pool.order(health, Hints(0.5)) for _ in range(ORDERS)]
    assert Counter(order[0] for order in found) == {0: 1_000, 1: 600, 2: 400}
    assert clean(tuple(order[0] for order in found[:10])) == "abcaabacba"


def test_turns_outlive_a_reload_and_are_each_pools_own() -> None:
    health = healthy(Clock())
    two = THREE[1:]
    first = Pool(two, Strategy.ROUND_ROBIN, name="m").order(health, Hints(0.5))
    health.keep(THREE)
    assert Pool(two, Strategy.ROUND_ROBIN, name="m").order(health, Hints(0.5)) != first
    assert Pool(two, Strategy.ROUND_ROBIN, name="n").order(health, Hints(0.5)) == first


def test_least_requests() -> None:
    pool, health = Pool(THREE, Strategy.LEAST_REQUESTS, 3), healthy(Clock())
    assert fits(orders(pool, health), shares({0: 5, 1: 3, 2: 2}, 3))
    for cluster, count in (("a", 10), ("b", 5), ("c", 5)):
        for _ in range(count):
            health.began(cluster)
    assert set(orders(pool, health)) == {(1, 0, 2)}
    health.began("b")  # a and b: 2 for each of the weight, c: 2.5
    expected: dict[tuple[int, ...], float] = {(0, 1, 2): 5 / 8, (1, 0, 2): 3 / 8}
    assert fits(orders(pool, health), expected)


def test_latency() -> None:
    pool, health = Pool(THREE, Strategy.LATENCY, 3), healthy(Clock())
    for cluster, seconds in (("a", 0.5), ("b", 0.2), ("c", 0.21)):
        health.succeeded(cluster, seconds)
    explored = {order: 0.05 * share for order, share in shares({0: 5, 1: 3, 2: 2}, 3).items()}
    explored[1, 2, 0] += 0.95 * 3 / 5
    explored[2, 1, 0] += 0.95 * 2 / 5
    assert fits(orders(pool, health), explored)


def test_a_target_that_was_never_measured_stands_among_the_fastest() -> None:
    pool, health = Pool(THREE, Strategy.LATENCY, 3), healthy(Clock())
    health.succeeded("a", 0.5)
    health.succeeded("b", 0.2)
    found = firsts(orders(pool, health))
    assert fits(found, {0: 0.05 * 0.5, 1: 0.95 * 0.6 + 0.05 * 0.3, 2: 0.95 * 0.4 + 0.05 * 0.2})


def test_cost() -> None:
    choices = (
        choice("a", weight=3, input_cost=1, output_cost=10),
        choice("b", weight=1, input_cost=1, output_cost=10),
        choice("c", input_cost=5, output_cost=5),
    )
    pool, health = Pool(choices, Strategy.COST, 3), healthy(Clock(), *choices)
    short = orders(pool, health, prompt_tokens=1_000, completion_tokens=10)
    expected: dict[tuple[int, ...], float] = {(0, 1, 2): 0.75, (1, 0, 2): 0.25}
    assert fits(short, expected)
    assert fits(firsts(orders(pool, health, prompt_tokens=10, completion_tokens=1_000)), {2: 1.0})


def test_affinity() -> None:
    pool, health = Pool(THREE, Strategy.AFFINITY, 3), healthy(Clock())
    assert fits(orders(pool, health), shares({0: 5, 1: 3, 2: 2}, 3))
    assert {pool.order(health, Hints(draw / 100, b"user")) for draw in range(100)} == {
        pool.order(health, Hints(0.0, b"user"))
    }


def test_without_affinity_it_is_by_weight() -> None:
    pool, health = Pool(THREE, Strategy.AFFINITY, 3), healthy(Clock())
    chance = random.Random(7)
    found = Counter(pool.order(health, Hints(chance.random())) for _ in range(ORDERS))
    assert fits(found, shares({0: 5, 1: 3, 2: 2}, 3))


def test_only_the_requests_of_a_target_that_is_out_move() -> None:
    pool, health = Pool(THREE, Strategy.AFFINITY, 3), healthy(Clock())
    keys = [str(number).encode() for number in range(300)]
    before = {key: pool.order(health, Hints(0.5, key)) for key in keys}
    health.failed(limited("a", 30))
    for key in keys:
        assert pool.order(health, Hints(0.5, key)) == (*(index for index in before[key] if index != 0), 0)


# who may be tried


def test_every_target_is_tried_before_one_is_tried_again() -> None:
    health = healthy(Clock())
    assert {len(set(order[:3])) for order in orders(Pool(THREE, attempts=7), health)} == {3}
    assert all(order[:3] == order[3:6] and order[6] == order[0] for order in orders(Pool(THREE, attempts=7), health))
    assert Pool(THREE[:1], attempts=3).order(health, Hints(0.5)) == (0, 0, 0)


def test_what_has_no_weight_is_never_there() -> None:
    pool = Pool([choice("a", weight=0), choice("b"), choice("c")], attempts=4)
    assert {frozenset(order) for order in orders(pool, healthy(Clock()))} == {frozenset((1, 2))}
    with pytest.raises(ValueError, match="weight"):
        Pool([choice("a", weight=0)])


def by_priority(*priorities: int) -> tuple[Choice, ...]:
    return tuple(choice(name, priority=priority) for name, priority in zip("abcdefgh", priorities, strict=False))


def test_priorities_then_the_soonest_back() -> None:
    clock = Clock()
    choices = by_priority(1, 0, 0, 2)
    health, pool = healthy(clock, *choices), Pool(choices, attempts=4)
    assert {clean(order) for order in orders(pool, health)} == {"bcad", "cbad"}
    health.failed(limited("b", 30))
    assert {clean(order) for order in orders(pool, health)} == {"cadb"}
    health.failed(limited("c", 10))
    health.failed(limited("a", 20))
    assert {clean(order) for order in orders(pool, health)} == {"dcab"}
    health.checked("d.test:443", up=False)
    assert {clean(order) for order in orders(pool, health)} == {"cabd"}
    clock.advance(10)
    assert {clean(order) for order in orders(pool, health)} == {"cabd"}
    clock.advance(20)
    assert {clean(order) for order in orders(pool, health)} == {"bcad", "cbad"}


@pytest.mark.parametrize("strategy", Strategy)
def test_when_all_are_down_they_are_drawn_as_ever(strategy: Strategy) -> None:
    health, pool = healthy(Clock()), Pool(THREE, strategy, 3)
    for one in THREE:
        health.checked(one.endpoint, up=False)
    assert len(firsts(orders(pool, health))) == 3


def trial(clock: Clock, health: Health, *clusters: str) -> None:
    """These are on trial, with no try to give before a second has passed."""
    for cluster in clusters:
        eject(health, cluster)
    clock.advance(5)
    _ = health.version
    for cluster in clusters:
        assert health.grants(cluster)


def test_a_target_on_trial_is_tried_first_now_and_then() -> None:
    clock = Clock()
    choices = by_priority(0, 0, 1)
    health, pool = healthy(clock, *choices), Pool(choices, attempts=3)
    trial(clock, health, "a")
    assert {clean(order) for order in orders(pool, health)} == {"bac"}
    clock.advance(1)
    assert clean(pool.order(health, Hints(0.9))) == "abc"
    assert clean(pool.order(health, Hints(0.9))) == "bac"


def test_it_is_so_when_there_are_fewer_attempts_than_targets() -> None:
    clock = Clock()
    choices = by_priority(0, 0, 0, 1)
    health, pool = healthy(clock, *choices), Pool(choices, attempts=2)
    trial(clock, health, "a")
    clock.advance(1)
    assert clean(pool.order(health, Hints(0.0))) == "ab"
    assert clean(pool.order(health, Hints(0.0))) == "bc"


def test_the_only_one_of_its_priority_is_not_flooded_on_trial() -> None:
    clock = Clock()
    choices = by_priority(0, 1, 2)
    health, pool = healthy(clock, *choices), Pool(choices, attempts=3)
    trial(clock, health, "a")
    assert {clean(order) for order in orders(pool, health)} == {"bac"}
    clock.advance(1)
    assert clean(pool.order(health, Hints(0.5))) == "abc"


def test_one_of_a_later_priority_is_not_tried_before_its_time() -> None:
    clock = Clock()
    choices = by_priority(0, 1, 1)
    health, pool = healthy(clock, *choices), Pool(choices, attempts=3)
    trial(clock, health, "b")
    clock.advance(1)
    assert {clean(order) for order in orders(pool, health)} == {"acb"}
    assert health.grants("b")  # nobody has taken it


def test_two_on_trial_take_turns() -> None:
    clock = Clock()
    choices = by_priority(0, 0, 0)
    health, pool = healthy(clock, *choices), Pool(choices, attempts=3)
    trial(clock, health, "a", "b")
    clock.advance(1)
    found = [clean(pool.order(health, Hints(0.9))) for _ in range(3)]
    assert [order[0] for order in found] == ["a", "b", "c"]


def test_a_notice_changes_the_order_at_once() -> None:
    health, pool = healthy(Clock()), Pool(THREE, attempts=3)
    health.heard(Notice(Kind.EJECTED, "a", 30, "x"))
    assert {order[-1] for order in orders(pool, health)} == {0}


def test_one_pool_with_two_healths() -> None:
    one, other, pool = healthy(Clock()), healthy(Clock()), Pool(THREE, attempts=3)
    for _ in range(3):
        one.failed(attempt("a"))
        other.failed(attempt("b"))
    assert pool.order(one, Hints(0.1))[-1] == 0
    assert pool.order(other, Hints(0.1))[-1] == 1
