"""Which rule a bucket means, and how a limit is shared out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.operator import Counter
from ratelimit.quota.buckets import Assignment, Demand, assign, find, share
from ratelimit.rules import Limit, Rate, Rule, RuleSet, Unit
from ratelimit.settings import RuleFile, build

LIMIT = "rate_limit: {unit: minute, requests_per_unit: 60}"
RULES: RuleSet = build(
    [
        RuleFile(
            "f",
            f"domain: d\ndescriptors:\n- {{key: b, descriptors: [{{key: a, {LIMIT}}}]}}\n- {{key: a, {LIMIT}}}\n"
            f"- {{key: c, value: 'x*', {LIMIT}}}\n- {{key: e}}",
        )
    ]
)


@pytest.mark.parametrize(
    ("bucket", "entries"),
    [
        ({"a": "1", "b": "2"}, (("b", "2"), ("a", "1"))),
        ({"a": "1"}, (("a", "1"),)),
        ({"c": "xy"}, (("c", "xy"),)),
        ({"c": "y"}, None),
        ({"b": "2"}, None),
        ({"e": "1"}, None),
        ({"a": "1", "c": "x"}, None),
        ({}, None),
    ],
)
def test_a_bucket_means_the_path_that_uses_all_its_keys(
    bucket: dict[str, str], entries: tuple[tuple[str, str], ...] | None
) -> None:
    assert find(RULES, "d", bucket) == entries
    assert find(RULES, "unknown", bucket) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_shares_add_up_to_one_and_nobody_has_none(rates: list[float]) -> None:
    shares = [share(rate, rates) for rate in rates]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0


def counter(amount: int, used: int, unit: Unit = Unit.MINUTE, reset: int = 30, **fields: bool) -> Counter:
    limit = Limit(Rule(Rate(amount, unit), **fields), "k", "k")  # type: ignore[arg-type]
    return Counter(limit, "k", used, max(0, amount - used), reset)


@pytest.mark.parametrize(
    ("counters", "part", "assignment"),
    [
        ([counter(60, 0)], 1.0, Assignment(60, 60, 60)),
        ([counter(60, 0)], 0.5, Assignment(60, 30, 60)),
        ([counter(60, 30)], 1.0, Assignment(60, 30, 30)),
        ([counter(60, 60)], 0.5, Assignment(30, 0)),
        ([counter(0, 0)], 1.0, Assignment(30, 0)),
        ([counter(5, 0)], 0.01, Assignment(60, 1, 60)),
        ([counter(60, 0), counter(10, 0, Unit.SECOND, 1)], 1.0, Assignment(60, 10, 10)),
        ([counter(60, 60, shadow=True)], 1.0, Assignment(3600, None)),
        ([], 1.0, Assignment(3600, None)),
    ],
)
def test_what_an_envoy_is_given(counters: list[Counter], part: float, assignment: Assignment) -> None:
    assert assign(counters, part) == assignment


def test_small_changes_are_not_told() -> None:
    told = Assignment(60, 100, 60)
    assert told.replaces(None)
    assert not Assignment(60, 95, 60).replaces(told)
    assert Assignment(60, 80, 60).replaces(told)
    assert Assignment(60, 0).replaces(told)
    assert told.replaces(Assignment(60, 0))


def test_demand_follows_the_reports() -> None:
    demand = Demand()
    demand.report(10, 2)
    assert demand.rate == 5
    demand.report(0, 2)
    assert demand.rate == 2.5
