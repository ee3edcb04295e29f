from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.algorithms.fixed_window import counter_key
from ratelimit.rules import Mode, Rate, Rule, Unit, counter_name


@pytest.mark.parametrize(
    ("unit", "seconds", "number"),
    [
        (Unit.SECOND, 1, 1),
        (Unit.MINUTE, 60, 2),
        (Unit.HOUR, 3600, 3),
        (Unit.DAY, 86_400, 4),
        (Unit.MONTH, 2_592_000, 5),
        (Unit.YEAR, 31_536_000, 6),
        (Unit.WEEK, 604_800, 7),
    ],
)
def test_units_have_envoys_lengths_and_numbers(unit: Unit, seconds: int, number: int) -> None:
    assert (unit.seconds, int(unit)) == (seconds, number)


@pytest.mark.parametrize(("now", "start", "reset"), [(119, 60, 1), (120, 120, 60), (121, 120, 59), (179, 120, 1)])
def test_a_window_changes_exactly_at_its_edge(now: int, start: int, reset: int) -> None:
    assert Rate(1, Unit.MINUTE).start(now) == start
    assert Rate(1, Unit.MINUTE).until_reset(now) == reset


@given(st.integers(0, 2**33), st.sampled_from(Unit))
def test_the_reset_leads_to_the_start_of_the_next_window(now: int, unit: Unit) -> None:
    reset = Rate(1, unit).until_reset(now)
    assert 1 <= reset <= unit.seconds
    assert now + reset == Rate(1, unit).start(now) + unit.seconds == Rate(1, unit).start(now + reset)


def test_a_consuming_key_has_envoys_bytes() -> None:
    assert (
        counter_key(counter_name("d", (("k", "v"), ("k2", "")), Rule(Rate(1, Unit.MINUTE), Mode.CONSUME)), 60)
        == "d_k_v_k2__60"
    )
    assert counter_key(counter_name("d", (("k", "{v}"),), Rule(Rate(1, Unit.MINUTE), Mode.CONSUME)), 60) == "d_k_{v}_60"


def test_a_reserving_key_is_tagged_by_its_first_entry() -> None:
    assert (
        counter_key(counter_name("d", (("k", "v"), ("limit", "t")), Rule(Rate(1, Unit.MINUTE), Mode.RESERVE)), 60)
        == "{d_k_v}_limit_t_60"
    )
    assert counter_key(counter_name("d", (("k", "v"),), Rule(Rate(1, Unit.MINUTE), Mode.RESERVE)), 60) == "{d_k_v}_60"


@given(st.text("a{}%7BD(", max_size=5), st.text("a{}%7BD(", max_size=5))
def test_no_value_shares_the_tag_of_another(one: str, other: str) -> None:
    keys = [
        counter_key(counter_name("d", (("k", value), ("limit", "t")), Rule(Rate(1, Unit.MINUTE), Mode.RESERVE)), 0)
        for value in (one, other)
    ]
    assert (keys[0] == keys[1]) == (one == other)
    for key in keys:
        assert key.count("{") == key.count("}") == 1
