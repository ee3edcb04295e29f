"""Hits that are held: taken from the store at once, given out without it."""

from __future__ import annotations

from collections.abc import Sequence

from ratelimit.limiter import Decision, Limiter, LimitRequest
from ratelimit.options import Options
from ratelimit.rules import Descriptor, Mode, Node, Rate, Rule, RuleSet, Unit
from ratelimit.storage import MemoryStore, Operation
from ratelimit.storage.base import Count
from tests.ratelimit.factories import NOON


class Counting(MemoryStore):
    """Counts how often it is asked."""

    asked = 0

    def apply(self, operations: Sequence[Operation], now: float) -> Sequence[Count]:
        self.asked += 1
        return super().apply(operations, now)


RULES = RuleSet(
    {
        "d": (
            Node("k", None, Rule(Rate(100, Unit.MINUTE), lease=10)),
            Node("atom", None, Rule(Rate(100, Unit.MINUTE), Mode.RESERVE, label="atom", lease=10)),
            Node("never", None, Rule(Rate(0, Unit.MINUTE))),
        )
    }
)


def ask(limiter: Limiter, *keys: str, hits: int | None = None) -> Decision:
    decision = limiter.decide(RULES, LimitRequest("d", tuple(Descriptor(((key, "x"),), hits) for key in keys)))
    assert isinstance(decision, Decision)
    return decision


def test_what_is_held_is_not_used() -> None:
    store = Counting()
    limiter = Limiter(store, lambda: NOON)
    assert [ask(limiter, "k").statuses[0].remaining for _ in range(5)] == [99, 98, 97, 96, 95]
    assert store.asked == 2
    assert ask(limiter, "k", hits=0).statuses[0].remaining == 95
    assert ask(limiter, "k", hits=20).statuses[0].remaining == 75  # more than is held: asked for


def test_a_limit_that_is_used_up_elsewhere_is_asked_for_once_a_call() -> None:
    store = Counting()
    one, other = Limiter(store, lambda: NOON), Limiter(store, lambda: NOON)
    ask(one, "k")
    ask(other, "k", hits=99)
    overs = [ask(one, "k").over for _ in range(5)]
    assert overs == [True] * 5
    assert store.asked == 2 + 6  # the first is refused a lease, and then one hit


def test_shadow_mode_keeps_leases() -> None:
    limiter = Limiter(Counting(), lambda: NOON, options=Options(shadow=True))
    for _ in range(11):
        assert not ask(limiter, "never", "atom").over
    assert ask(limiter, "atom", hits=0).statuses[0].remaining == 89
