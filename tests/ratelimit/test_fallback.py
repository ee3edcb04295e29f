"""Rules while the store does not answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ratelimit.decision import Decision, LimitRequest
from ratelimit.limiter import Limiter, Unobserved
from ratelimit.options import Options
from ratelimit.rules import Algorithm, Descriptor, Limit, Mode, Node, OnError, Rate, Rule, RuleSet, Unit
from ratelimit.storage import MemoryStore
from ratelimit.storage.base import Count, Operation
from sidecar.errors import StoreError
from tests.ratelimit.factories import Clock


class Away(MemoryStore):
    """A store that does not answer."""

    def apply(self, operations: Sequence[Operation], now: float) -> list[Count]:
        raise StoreError("away", transient=True)


def rule(policy: OnError, share: float = 0.0, algorithm: Algorithm = Algorithm.FIXED_WINDOW, burst: int = 0) -> Rule:
    return Rule(Rate(100, Unit.MINUTE), label="r", on_error=policy, local_share=share, algorithm=algorithm, burst=burst)


def rules(**by_key: Rule) -> RuleSet:
    return RuleSet({"d": tuple(Node(key, None, one) for key, one in by_key.items())})


def ask(limiter: Limiter, made: RuleSet, *keys: str, hits: int = 1) -> Decision:
    descriptors = tuple(Descriptor(((key, "x"),), hits) for key in keys)
    decision = limiter.decide(made, LimitRequest("d", descriptors))
    assert isinstance(decision, Decision)
    return decision


@pytest.mark.parametrize(("policy", "over", "left"), [(OnError.OPEN, False, 100), (OnError.CLOSED, True, 0)])
def test_open_lets_all_through_and_closed_none(clock: Clock, policy: OnError, over: bool, left: int) -> None:
    limiter = Limiter(Away(), clock)
    for _ in range(200):
        decision = ask(limiter, rules(a=rule(policy)), "a")
        assert (decision.over, decision.statuses[0].remaining) == (over, left)


def test_an_error_is_seen_when_any_rule_of_the_call_wants_it(clock: Clock) -> None:
    limiter, made = Limiter(Away(), clock), rules(a=rule(OnError.OPEN), b=rule(OnError.ERROR))
    assert not ask(limiter, made, "a").over
    with pytest.raises(StoreError):
        ask(limiter, made, "a", "b")
    lenient = Limiter(Away(), clock, options=Options(on_error=OnError.OPEN))
    assert not ask(lenient, made, "a", "b").over


@pytest.mark.parametrize(
    ("algorithm", "burst", "most"),
    [
        (Algorithm.FIXED_WINDOW, 0, 25),
        (Algorithm.SLIDING_WINDOW, 0, 25),
        (Algorithm.SLIDING_LOG, 0, 25),
        (Algorithm.TOKEN_BUCKET, 40, 10),
        (Algorithm.GCRA, 40, 10),
    ],
)
def test_local_allows_its_share(clock: Clock, algorithm: Algorithm, burst: int, most: int) -> None:
    limiter = Limiter(Away(), clock)
    made = rules(a=rule(OnError.LOCAL, 0.25, algorithm, burst))
    decisions = [ask(limiter, made, "a") for _ in range(60)]
    assert sum(not decision.over for decision in decisions) == most
    left = [decision.statuses[0].remaining for decision in decisions]
    assert left[: most + 1] == [*range(most - 1, -1, -1), 0]
    clock.now += 120
    assert not ask(limiter, made, "a").over


def test_a_call_that_closed_denies_takes_nothing_locally(clock: Clock) -> None:
    limiter = Limiter(Away(), clock)
    atomic = Rule(Rate(10, Unit.MINUTE), Mode.RESERVE, label="a", on_error=OnError.LOCAL)
    made = rules(a=atomic, b=rule(OnError.CLOSED))
    for _ in range(20):
        assert ask(limiter, made, "a", "b").over
    assert ask(limiter, made, "a").statuses[0].remaining == 9


def test_nothing_is_reserved_and_everything_is_told(clock: Clock) -> None:
    told: list[str] = []

    class Watcher(Unobserved):
        def degraded(self, limit: Limit) -> None:
            told.append(limit.rule.label)

        def store_failed(self, error: StoreError) -> None:
            told.append(f"failed {error.transient}")

    atomic = Rule(Rate(10, Unit.MINUTE), Mode.RESERVE, label="a", on_error=OnError.LOCAL)
    decision = ask(Limiter(Away(), clock, Watcher()), rules(a=atomic), "a")
    assert decision.reservations == ()
    assert told == ["failed True", "a"]


def test_what_only_gives_back_is_dropped(clock: Clock) -> None:
    limiter = Limiter(Away(), clock)
    assert not ask(limiter, rules(a=rule(OnError.CLOSED)), "a", hits=-5).over
