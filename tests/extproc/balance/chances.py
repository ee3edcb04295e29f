"""Pearson's chi-square test, for seeded draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def fits(counts: Mapping[T, int], shares: Mapping[T, float]) -> bool:
    """Whether `counts` are what draws with these `shares` give, at one in a thousand."""
    total = sum(counts.values())
    if set(counts) - {key for key, share in shares.items() if share}:
        return False
    expected = {key: total * share for key, share in shares.items() if share}
    statistic = sum((counts.get(key, 0) - value) ** 2 / value for key, value in expected.items())
    return statistic <= critical(len(expected) - 1)


def critical(freedom: int) -> float:
    """The value that is exceeded once in a thousand times (Wilson and Hilferty's approximation)."""
    if freedom == 0:
        return 1e-9
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + 3.0902 * math.sqrt(part)) ** 3)
