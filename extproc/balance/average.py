"""A mean in which old samples fade."""

from __future__ import annotations

import math


class FadingAverage:
    """The mean of samples, each weighing exp(-age / fade).

    Sums are kept, not a smoothed value: samples arrive in batches, many at one time, and each must count.
    """

    __slots__ = ("_at", "_fade", "_sum", "_weight")

    def __init__(self, fade: float) -> None:
        self._fade = fade
        self._at = 0.0
        self._sum = 0.0
        self._weight = 0.0

    def add(self, now: float, value: float) -> None:
        """One sample, taken at `now` (seconds)."""
        kept = math.exp(min(0.0, self._at - now) / self._fade)
        self._sum = self._sum * kept + value
        self._weight = self._weight * kept + 1.0
        self._at = now

    @property
    def value(self) -> float | None:
        """The mean; None before the first sample."""
        return self._sum / self._weight if self._weight else None
