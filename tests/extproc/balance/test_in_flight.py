"""Requests in flight."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from extproc.balance.in_flight import InFlight


def test_what_began_and_ended() -> None:
    requests = InFlight()
    for _ in range(3):
        requests.began(100.0)
    requests.ended(101.0, 1.0)
    assert requests.count(101.0) == 2
    requests.ended(101.0, 1.0, count=5)
    assert requests.count(101.0) == 0


def test_an_end_that_was_lost_counts_for_ten_minutes_under_steady_traffic() -> None:
    requests = InFlight()
    requests.began(0.0)
    for second in range(1, 700):
        requests.began(float(second))
        requests.ended(second + 0.5, 0.5)
    assert requests.count(700.0) == 0


def test_one_that_runs_long_keeps_counting_under_steady_traffic() -> None:
    requests = InFlight()
    requests.began(0.0)
    for second in range(1, 500):
        requests.began(float(second))
        requests.ended(second + 0.5, 0.5)
        assert requests.count(second + 0.5) == 1
    requests.ended(500.0, 500.0)
    assert requests.count(500.0) == 0


def test_the_end_of_what_was_forgotten_takes_nothing_away() -> None:
    requests = InFlight()
    requests.began(0.0)
    requests.began(700.0)
    requests.ended(700.0, 700.0)
    assert requests.count(700.0) == 1


@given(st.lists(st.tuples(st.floats(0, 200), st.booleans(), st.floats(0, 900), st.integers(1, 3))))
def test_it_is_never_below_nothing(steps: list[tuple[float, bool, float, int]]) -> None:
    requests, now, began = InFlight(), 0.0, 0
    for passed, begins, seconds, count in steps:
        now += passed
        if begins:
            requests.began(now)
            began += 1
        else:
            requests.ended(now, seconds, count)
        assert 0 <= requests.count(now) <= began
    assert requests.count(now + 1_000) == 0
