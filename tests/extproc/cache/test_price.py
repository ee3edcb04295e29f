"""What kept answers have cost."""

from __future__ import annotations

import pytest

from extproc.cache.cache import Found
from extproc.cache.price import Price, cost_of
from extproc.cache.question import Question
from extproc.cache.usage import Usage
from tests.extproc.cache.test_cache import House, answer, question

PRICES = {"dear": Price(10, 30), "cheap": Price(1, 2)}
USAGE = Usage(1100, 1000, 100)


@pytest.mark.parametrize(
    ("cluster", "cost"),
    [("dear", 0.013), ("cheap", 0.0012), ("", 0.0012), ("another", None)],
)
def test_by_who_has_answered(cluster: str, cost: float | None) -> None:
    assert cost_of(USAGE, PRICES, cluster) == (cost if cost is None else pytest.approx(cost))


def test_without_prices_nothing_is_claimed() -> None:
    assert cost_of(USAGE, {}, "dear") is None
    assert cost_of(USAGE, {}, "") is None


def test_tokens_that_nobody_told_of_cost_nothing() -> None:
    assert cost_of(Usage(), PRICES, "dear") == 0
    assert cost_of(Usage(5, 5, None), PRICES, "dear") == pytest.approx(50e-6)


def test_a_hit_has_what_its_answer_cost() -> None:
    house = House()
    plain = question("q")
    asked = Question(plain.key, plain.operation, plain.rules, plain.read, None, False, PRICES)
    outcome = house.cache.ask(asked)
    house.cache.keep(getattr(outcome, "ticket"), answer(), "dear")  # noqa: B009
    found = house.cache.ask(plain)  # by now the prices may be others
    assert isinstance(found, Found)
    assert "saved 3 7e-05" not in house.seen.told
    house.cache.delivered(found)
    assert house.seen.told[-1] == "saved 3 7e-05"
