"""Counts of hits, and their plot."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from headgate.evaluation.measure import (
    Rate,
    Scored,
    apart,
    categories,
    cosine,
    lowest_without_false_hits,
    rate,
    worst,
)  # fmt: skip
from headgate.evaluation.pairs import Pair
from headgate.evaluation.plot import svg

SCORED = [
    Scored(Pair(True, "rewording", "a", "b"), 0.9),
    Scored(Pair(True, "rewording", "a", "c"), 0.7),
    Scored(Pair(True, "order", "1 2", "2 1"), 1.0),
    Scored(Pair(False, "name", "Ann", "Hannah"), 0.8),
    Scored(Pair(False, "number", "at 5", "at 50"), 0.99),
]


def test_rates() -> None:
    assert rate(SCORED, 0.85, same=True) == Rate(1, 3)
    assert rate(SCORED, 0.7, same=True) == Rate(2, 3)
    assert rate(SCORED, 0.7, same=True, category="order") == Rate(0, 1)  # their numbers keep them apart
    assert rate(SCORED, 0.8, same=False) == Rate(1, 2)
    assert rate(SCORED, 0.81, same=False) == Rate(0, 2)
    assert Rate(0, 0).share == 0
    assert categories(SCORED, same=False) == ["name", "number"]
    assert (apart(SCORED, same=True), apart(SCORED, same=False)) == (1, 1)


def test_what_is_worst() -> None:
    assert lowest_without_false_hits(SCORED) == 0.8
    assert [one.pair.category for one in worst(SCORED)] == ["name"]
    assert lowest_without_false_hits([Scored(Pair(False, "roles", "a b", "b a"), 1.0)]) is None


def test_cosine() -> None:
    assert cosine([1, 0], [2, 0]) == 1
    assert cosine([3, 4], [1, 0]) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="direction"):
        cosine([0, 0], [1, 0])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        cosine([1, 0], [1, 0, 0])


def test_the_plot_is_svg() -> None:
    root = ET.fromstring(svg("m <&>", SCORED))
    lines = [one for one in root.iter() if one.tag.endswith("polyline")]
    assert len(lines) == 2
    assert "m <&>" in {one.text for one in root.iter()}
