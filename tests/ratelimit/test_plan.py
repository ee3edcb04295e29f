"""Plans are kept with their request: for a second, for one rule set, for one planner."""

from __future__ import annotations

from ratelimit.decision import LimitRequest
from ratelimit.options import Options
from ratelimit.plan import Plan, Planner
from ratelimit.rules import Descriptor, Node, Rate, Rule, RuleSet

NOW = 1_700_000_000


def rules(amount: int = 10) -> RuleSet:
    return RuleSet({"d": (Node("user", None, Rule(Rate.parse(f"{amount}/min"), label="user")),)})


def request() -> LimitRequest:
    return LimitRequest("d", (Descriptor((("user", "ann"),)),))


def test_a_second_has_one_plan_and_the_next_one_another() -> None:
    planner, asked, known = Planner(Options(), lambda: 0.5), request(), rules()
    first = planner.plan(known, asked, NOW)
    assert planner.plan(known, asked, NOW) is first
    later = planner.plan(known, asked, NOW + 1)
    assert later.operations[0].ttl == first.operations[0].ttl - 1


def test_other_rules_have_a_plan_of_their_own() -> None:
    planner, asked = Planner(Options(), lambda: 0.5), request()
    assert planner.plan(rules(10), asked, NOW).operations[0].limit == 10
    assert planner.plan(rules(20), asked, NOW).operations[0].limit == 20


def test_a_kept_plan_does_not_keep_its_rule_set() -> None:
    planner, asked, known = Planner(Options(), lambda: 0.5), request(), rules()
    plan = planner.plan(known, asked, NOW)
    assert asked.memo is plan
    assert all(getattr(plan, name) is not known for name in Plan.__slots__)


def test_another_planner_has_a_plan_of_its_own() -> None:
    asked, known = request(), rules()
    keys = [
        Planner(Options(key_prefix=prefix), lambda: 0.5).plan(known, asked, NOW).operations[0].key
        for prefix in ("", "here:")
    ]
    assert keys[1] == f"here:{keys[0]}"


def test_a_counters_expiry_is_spread_anew_in_every_second() -> None:
    dice = iter([0.0, 0.5])
    planner, asked, known = Planner(Options(jitter=100), lambda: next(dice)), request(), rules()
    first, same, second = (planner.plan(known, asked, now).operations[0].ttl for now in (NOW, NOW, NOW + 1))
    assert (same, second) == (first, first - 1 + 50)
