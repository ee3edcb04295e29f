"""What is true of every algorithm: the reference's verdicts, and waits that are exactly as long as they say."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.algorithms.base import MOST, SECOND, microseconds, seconds_up
from ratelimit.rules import Algorithm
from tests.ratelimit.algorithms.kept import BUCKETS, NOON, SHAPES, Kept
from tests.ratelimit.algorithms.reference import reference

START = NOON * SECOND


class Step(NamedTuple):
    """After so many microseconds: hits, or (with `ago` seconds) a correction."""

    passed: int
    hits: int
    ago: int | None


limits = st.integers(1, 20) | st.sampled_from([10**6, 10**12, MOST // 64])
seconds = st.sampled_from([1, 7, 60, 86_400, 315_360_000])


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, int, list[Step]]:
    limit, period = draw(limits), draw(seconds)
    burst = draw(st.sampled_from([1, max(1, limit // 3), limit, 2 * limit]))
    some = st.integers(0, 3) | st.integers(0, 2 * limit) | st.just(limit)
    passed = st.integers(0, 3) | st.integers(0, period * SECOND // 3) | st.integers(0, 3 * period * SECOND)
    adding = st.builds(Step, passed, some, st.none())
    correcting = st.builds(Step, passed, some.map(lambda hits: -hits) | some, st.integers(-2, 3 * period))
    return limit, period, burst, draw(st.lists(adding | correcting, max_size=20))


@pytest.mark.parametrize("algorithm", SHAPES)
@settings(max_examples=70, deadline=None)
@given(histories())
def test_is_what_the_reference_is(algorithm: Algorithm, history: tuple[int, int, int, list[Step]]) -> None:
    limit, period, burst, steps = history
    kept, model, now = Kept(algorithm, limit, period, burst), reference(algorithm, limit, period, burst), START
    assert kept.at(now).capacity == model.capacity
    for passed, hits, ago in steps:
        now += passed
        if ago is not None:
            at = (now // SECOND - ago) * SECOND
            kept.keep(kept.at(now).correct(hits, at))
            model.correct(hits, at, now)
        elif kept.admit(hits, now):
            assert model.in_use(now) + hits <= model.capacity
            model.add(hits, now)
        else:
            assert model.in_use(now) + hits > model.capacity
        assert kept.at(now).in_use == model.in_use(now)


@pytest.mark.parametrize("algorithm", SHAPES)
@settings(max_examples=70, deadline=None)
@given(histories(), st.data())
def test_a_call_fits_when_it_was_told_to_come_again_and_not_before(
    algorithm: Algorithm, history: tuple[int, int, int, list[Step]], data: st.DataObject
) -> None:
    limit, period, burst, steps = history
    kept, now = Kept(algorithm, limit, period, burst), START
    for passed, hits, _ in steps:
        now += passed
        kept.admit(abs(hits), now)
    counter = kept.at(now)
    hits = data.draw(st.integers(0, counter.capacity))
    excess = data.draw(st.integers(1, 3)) + counter.capacity - hits - counter.in_use
    if excess > 0:  # what was settled beyond what was reserved
        kept.add(excess, now)
        counter = kept.at(now)
    wait = counter.until_fits(hits)
    assert wait > 0
    assert kept.at(now + wait - 1).in_use + hits > counter.capacity
    assert kept.at(now + wait).in_use + hits <= counter.capacity


@pytest.mark.parametrize("algorithm", SHAPES)
@settings(max_examples=50, deadline=None)
@given(histories())
def test_is_free_when_it_says_and_not_before(algorithm: Algorithm, history: tuple[int, int, int, list[Step]]) -> None:
    limit, period, burst, steps = history
    kept, now = Kept(algorithm, limit, period, burst), START
    for passed, hits, _ in steps:
        now += passed
        kept.admit(abs(hits), now)
    wait = kept.at(now).until_free
    if wait:
        assert kept.at(now + wait - 1).in_use > 0
    assert kept.at(now + wait).in_use == 0


@settings(max_examples=70, deadline=None)
@given(histories())
def test_a_token_bucket_and_gcra_say_the_same(history: tuple[int, int, int, list[Step]]) -> None:
    limit, period, burst, steps = history
    (one, other), now = [Kept(algorithm, limit, period, burst) for algorithm in BUCKETS], START
    for passed, hits, ago in steps:
        now += passed
        if ago is not None:
            for kept in (one, other):
                kept.keep(kept.at(now).correct(hits, 0))
        else:
            assert one.admit(hits, now) == other.admit(hits, now)
        assert one.at(now).in_use == other.at(now).in_use
        assert one.at(now).until_free == other.at(now).until_free


@pytest.mark.parametrize("algorithm", SHAPES)
def test_a_limit_of_0_blocks_always(algorithm: Algorithm) -> None:
    kept = Kept(algorithm, 0)
    assert not kept.admit(1, START)
    assert not kept.admit(1, START + 10**12)
    assert kept.admit(0, START)


@pytest.mark.parametrize("algorithm", SHAPES)
def test_a_clock_that_goes_back_frees_nothing(algorithm: Algorithm) -> None:
    kept = Kept(algorithm, 10)
    assert kept.admit(10, START + 30 * SECOND)
    assert not kept.admit(1, START)
    assert kept.at(START).in_use >= 10
    assert kept.at(START + 29 * SECOND).in_use >= 10


@pytest.mark.parametrize("algorithm", [Algorithm.SLIDING_WINDOW, Algorithm.SLIDING_LOG, Algorithm.TOKEN_BUCKET])
def test_a_clock_that_is_behind_is_held_to_the_time_of_the_others(algorithm: Algorithm) -> None:
    """GCRA alone remembers no time. The sliding window remembers its window."""
    kept = Kept(algorithm, 10)
    kept.add(4, START + 60 * SECOND)
    kept.add(3, START)
    assert kept.at(START + 60 * SECOND).in_use == 7
    assert kept.at(START + 60 * SECOND).now == START + 60 * SECOND
    assert kept.at(START).now == START + 60 * SECOND


@pytest.mark.parametrize("algorithm", SHAPES)
@pytest.mark.parametrize("hits", [MOST, MOST - 1, 1])
def test_the_largest_numbers_are_exact(algorithm: Algorithm, hits: int) -> None:
    kept = Kept(algorithm, MOST, 315_360_000)
    assert kept.admit(MOST - hits, START)
    assert kept.at(START).in_use == MOST - hits
    assert kept.admit(hits, START)
    assert kept.at(START).in_use == MOST
    assert not kept.admit(1, START)
    kept.keep(kept.at(START).correct(-1, START))
    assert kept.admit(1, START)
    assert not kept.admit(1, START)


@pytest.mark.parametrize("algorithm", SHAPES)
def test_what_is_owed_stops_where_it_can_still_be_counted(algorithm: Algorithm) -> None:
    kept = Kept(algorithm, MOST, 1)
    for _ in range(4):
        kept.keep(kept.at(START).correct(MOST, START))
    assert kept.at(START).in_use == MOST
    assert kept.at(START).until_free <= MOST


def test_seconds_are_rounded_up() -> None:
    assert [seconds_up(time) for time in (0, 1, SECOND, SECOND + 1)] == [0, 1, 1, 2]
    assert microseconds(NOON + 0.25) == START + 250_000
