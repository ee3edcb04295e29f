"""Old samples fade."""

from __future__ import annotations

import math

import pytest

from extproc.balance.average import FadingAverage


def test_nothing_was_measured() -> None:
    assert FadingAverage(30).value is None


def test_samples_of_one_time_count_alike() -> None:
    average = FadingAverage(30)
    for value in (1.0, 2.0, 6.0):
        average.add(5.0, value)
    assert average.value == 3.0


def test_an_old_sample_weighs_less() -> None:
    average = FadingAverage(30)
    average.add(0.0, 10.0)
    average.add(30.0, 1.0)
    old = math.exp(-1)
    assert average.value == pytest.approx((10 * old + 1) / (old + 1))
    average.add(10_000.0, 2.0)
    assert average.value == pytest.approx(2.0)
