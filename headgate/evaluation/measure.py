"""What a threshold would have done to labelled pairs. Pure: similarities in, counts out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from extproc.semantic.frame import numbers
from headgate.evaluation.pairs import Pair

THRESHOLDS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)


@dataclass(frozen=True, slots=True)
class Scored:
    """A pair and the cosine between its questions."""

    pair: Pair
    similarity: float

    @property
    def apart(self) -> bool:
        """Whether the gateway does not even compare the two: their numbers differ."""
        return numbers(self.pair.one) != numbers(self.pair.another)

    def hits(self, threshold: float) -> bool:
        """Whether one would get the other's answer."""
        return self.similarity >= threshold and not self.apart


@dataclass(frozen=True, slots=True)
class Rate:
    """So many of so many."""

    hits: int
    of: int

    @property
    def share(self) -> float:
        """0 to 1; 0 of nothing."""
        return self.hits / self.of if self.of else 0.0


def cosine(one: Sequence[float], another: Sequence[float]) -> float:
    """The cosine between two vectors. Raises `ValueError` where one has no direction, or they differ in length."""
    length = math.hypot(*one) * math.hypot(*another)
    if not 0 < length < math.inf:
        raise ValueError("a vector has no direction")
    return math.fsum(a * b for a, b in zip(one, another, strict=True)) / length


def rate(scored: Sequence[Scored], threshold: float, *, same: bool, category: str = "") -> Rate:
    """How many pairs of a kind (of a category) are at least so near: true hits of `same`, false hits of the others."""
    own = [one for one in scored if one.pair.same is same and category in ("", one.pair.category)]
    return Rate(sum(one.hits(threshold) for one in own), len(own))


def categories(scored: Sequence[Scored], *, same: bool) -> list[str]:
    """The categories of a kind, as they come."""
    return list(dict.fromkeys(one.pair.category for one in scored if one.pair.same is same))


def apart(scored: Sequence[Scored], *, same: bool) -> int:
    """How many pairs of a kind are never compared."""
    return sum(one.apart for one in scored if one.pair.same is same)


def lowest_without_false_hits(scored: Sequence[Scored]) -> float | None:
    """The similarity above which no false hit is left; None when that leaves nothing below 1."""
    highest = max((one.similarity for one in scored if not one.pair.same and not one.apart), default=0.0)
    return highest if highest < 1 else None


def worst(scored: Sequence[Scored], count: int = 5) -> list[Scored]:
    """The false hits that come first, nearest first."""
    wrong = [one for one in scored if not one.pair.same and not one.apart]
    return sorted(wrong, key=lambda one: -one.similarity)[:count]
