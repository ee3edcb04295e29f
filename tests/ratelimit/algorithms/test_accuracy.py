"""What each algorithm lets through at worst, and what becomes of corrections."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.algorithms.base import SECOND
from ratelimit.algorithms.sliding_log import MOST_LOOKED_AT
from ratelimit.rules import Algorithm
from tests.ratelimit.algorithms.kept import BUCKETS, NOON, Kept

START = NOON * SECOND
MINUTE = 60 * SECOND

arrivals = st.lists(st.tuples(st.integers(0, 40 * SECOND), st.integers(1, 5)), min_size=1, max_size=60)


def admitted(kept: Kept, calls: list[tuple[int, int]]) -> list[tuple[int, int]]:
    now, passed = START, []
    for wait, hits in calls:
        now += wait
        if kept.admit(hits, now):
            passed.append((now, hits))
    return passed


def most_in(passed: list[tuple[int, int]], length: int) -> int:
    """The most hits in any half-open window of this length."""
    return max((sum(hits for at, hits in passed if first <= at < first + length) for first, _ in passed), default=0)


@settings(max_examples=100, deadline=None)
@given(arrivals, st.integers(1, 20))
def test_a_log_never_lets_more_than_the_limit_into_any_window(calls: list[tuple[int, int]], limit: int) -> None:
    assert most_in(admitted(Kept(Algorithm.SLIDING_LOG, limit), calls), MINUTE) <= limit


@settings(max_examples=100, deadline=None)
@given(arrivals, st.integers(1, 20))
def test_a_sliding_window_never_lets_twice_the_limit_into_any_window(calls: list[tuple[int, int]], limit: int) -> None:
    passed = admitted(Kept(Algorithm.SLIDING_WINDOW, limit), calls)
    assert most_in(passed, MINUTE) <= max(limit, 2 * limit - 1)
    for start in range(START, START + 40 * MINUTE, MINUTE):  # and in its own windows never more than the limit
        assert sum(hits for at, hits in passed if start <= at < start + MINUTE) <= limit


@pytest.mark.parametrize("algorithm", BUCKETS)
@settings(max_examples=50, deadline=None)
@given(arrivals, st.integers(1, 20), st.integers(1, 40), st.integers(1, 3 * MINUTE))
def test_a_bucket_never_lets_more_through_than_its_size_and_its_refill(
    algorithm: Algorithm, calls: list[tuple[int, int]], limit: int, burst: int, length: int
) -> None:
    passed = admitted(Kept(algorithm, limit, burst=burst), calls)
    assert most_in(passed, length) <= burst + limit * length // MINUTE


def test_the_worst_of_a_sliding_window_is_a_burst_at_the_end_of_a_window() -> None:
    kept = Kept(Algorithm.SLIDING_WINDOW, 100)
    passed = [(START + MINUTE - 1, 1) for _ in range(100) if kept.admit(1, START + MINUTE - 1)]
    passed += [(at, 1) for at in range(START + MINUTE, START + 2 * MINUTE - 1, SECOND // 10) if kept.admit(1, at)]
    assert most_in(passed, MINUTE) == 199


def test_a_sliding_window_lets_nothing_through_twice_at_its_edge() -> None:
    kept = Kept(Algorithm.SLIDING_WINDOW, 100)
    assert kept.admit(100, START + MINUTE - 1)
    assert not kept.admit(1, START + MINUTE)
    assert kept.admit(50, START + MINUTE + MINUTE // 2)
    assert not kept.admit(1, START + MINUTE + MINUTE // 2)


def test_a_log_is_free_after_exactly_one_period() -> None:
    kept = Kept(Algorithm.SLIDING_LOG, 1)
    assert kept.admit(1, START + 5)
    assert not kept.admit(1, START + 4 + MINUTE)
    assert kept.admit(1, START + 5 + MINUTE)


def test_a_bucket_refills_evenly_and_keeps_fractions() -> None:
    for algorithm in BUCKETS:
        kept = Kept(algorithm, 3, 7, burst=3)  # a token every 2 1/3 seconds
        assert kept.admit(3, START)
        assert [kept.admit(1, START + at) for at in (2_333_333, 2_333_334, 4_666_666, 4_666_667)] == [
            False, True, False, True,
        ]  # fmt: skip
        assert kept.admit(1, START + 7 * SECOND)
        assert not kept.admit(1, START + 7 * SECOND)


def test_a_burst_that_is_smaller_than_the_limit_spreads_it() -> None:
    for algorithm in BUCKETS:
        kept = Kept(algorithm, 60, burst=2)
        assert [kept.admit(1, START + at) for at in (0, 0, 0, SECOND - 1, SECOND)] == [True, True, False, False, True]


# corrections


def test_a_sliding_window_corrects_the_bucket_that_was_charged() -> None:
    kept = Kept(Algorithm.SLIDING_WINDOW, 100)
    kept.add(60, START)
    kept.add(20, START + MINUTE)
    half = START + MINUTE + MINUTE // 2
    assert kept.at(half).in_use == 50
    kept.keep(kept.at(half).correct(-40, START))
    assert kept.at(half).in_use == 30
    kept.keep(kept.at(half).correct(-15, START + MINUTE))
    assert kept.at(half).in_use == 15


@pytest.mark.parametrize("algorithm", [Algorithm.SLIDING_WINDOW, Algorithm.SLIDING_LOG])
def test_a_refund_of_what_no_longer_weighs_is_lost_and_what_is_owed_is_owed_now(algorithm: Algorithm) -> None:
    kept, later = Kept(algorithm, 100), START + 5 * MINUTE
    kept.add(60, later)
    kept.keep(kept.at(later).correct(-40, START))
    assert kept.at(later).in_use == 60
    kept.keep(kept.at(later).correct(7, 0))
    assert kept.at(later).in_use == 67


@pytest.mark.parametrize("algorithm", [Algorithm.SLIDING_WINDOW, Algorithm.SLIDING_LOG, *BUCKETS])
def test_a_correction_that_is_to_come_is_made_now_and_never_below_nothing(algorithm: Algorithm) -> None:
    kept = Kept(algorithm, 100)
    kept.add(60, START)
    kept.keep(kept.at(START).correct(-40, START + 10 * MINUTE))
    assert kept.at(START).in_use == 20
    kept.keep(kept.at(START).correct(-40, START))
    assert kept.at(START).in_use == 0
    kept.add(5, START)
    assert kept.at(START).in_use == 5


def test_a_logs_correction_expires_with_what_it_corrects_and_never_after_it() -> None:
    kept = Kept(Algorithm.SLIDING_LOG, 100)
    kept.add(10, START)
    kept.add(60, START + SECOND + 500_000)
    kept.keep(kept.at(START + 30 * SECOND).correct(-40, START + SECOND))
    at = [START + 30 * SECOND, START + MINUTE, START + MINUTE + SECOND, START + MINUTE + SECOND + 500_000]
    assert [kept.at(time).in_use for time in at] == [30, 20, 60, 0]


def test_a_log_keeps_no_credit_without_what_it_refunds() -> None:
    kept = Kept(Algorithm.SLIDING_LOG, 100)
    kept.add(50, START)
    kept.keep(kept.at(START + 30 * SECOND).correct(-50, START + 20 * SECOND))  # of an entry that was lost
    kept.add(10, START + 40 * SECOND)
    kept.keep(kept.at(START + 40 * SECOND).correct(-10, START + 39 * SECOND))
    kept.add(50, START + 50 * SECOND)
    kept.keep(kept.at(START + 50 * SECOND).correct(-49, START + 45 * SECOND))
    assert kept.at(START + 70 * SECOND).in_use == 1
    kept = Kept(Algorithm.SLIDING_LOG, 100)
    kept.add(50, START)
    kept.keep(kept.at(START + 30 * SECOND).correct(-40, START + 20 * SECOND))
    assert kept.at(START + MINUTE).in_use == 0
    assert not kept.admit(101, START + MINUTE)


def test_a_log_has_one_entry_for_a_microsecond_and_none_for_nothing() -> None:
    kept = Kept(Algorithm.SLIDING_LOG, 100)
    for _ in range(5):
        kept.add(1, START)
    kept.add(0, START)
    assert kept.log is not None
    assert len(kept.log) == 3 + 2
    kept.add(3, START + 1)
    kept.keep(kept.at(START + 1).correct(-5, START))
    assert len(kept.log) == 3 + 2
    assert kept.at(START + 1).in_use == 3


def test_a_log_lets_go_of_what_has_expired() -> None:
    kept = Kept(Algorithm.SLIDING_LOG, 10**6)
    for second in range(5000):
        kept.add(1, START + second * SECOND)
    assert kept.log is not None
    assert kept.at(START + 4999 * SECOND).in_use == 60
    assert len(kept.log) < 400


def test_a_call_that_many_entries_are_in_the_way_of_waits_for_all() -> None:
    kept = Kept(Algorithm.SLIDING_LOG, 1000)
    for number in range(1000):
        kept.add(1, START + number)
    counter = kept.at(START + 1000)
    assert counter.until_fits(MOST_LOOKED_AT) == MINUTE - 1000 + MOST_LOOKED_AT - 1
    assert counter.until_fits(MOST_LOOKED_AT + 1) == counter.until_free == MINUTE - 1


def test_gcra_outlives_a_change_of_its_limit() -> None:
    kept = Kept(Algorithm.GCRA, 7)
    kept.add(3, START)
    kept.limit = kept.burst = 3
    assert kept.at(START).in_use == 2  # 3/7 of a minute are 9/7 of 20 seconds
    kept.limit = kept.burst = 0
    assert not kept.admit(1, START)
    assert kept.at(START).add(5) == kept.at(START)


def test_gcra_takes_a_part_under_an_old_limit_for_less_than_a_microsecond() -> None:
    kept = Kept(Algorithm.GCRA, 10**9)
    kept.add(16, START)  # 0.96 microseconds
    kept.limit = kept.burst = 3
    assert kept.at(START).in_use == 1
    assert kept.at(START).until_free == 1
