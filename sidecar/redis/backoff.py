"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Doubles from `first` to `cap` (seconds), each jittered down to as little as half. The first attempt is at once.

    The cap is what a recovery may be late by, and what an absent server is knocked at: keep both in mind.
    """

    def __init__(self, first: float = 0.002, cap: float = 0.25, chance: Callable[[], float] = random.random) -> None:
        self._first = first
        self._cap = cap
        self._chance = chance
        self._attempts = 0

    def delay(self) -> float:
        """Seconds until the next attempt, which is counted."""
        self._attempts += 1
        if self._attempts == 1:
            return 0.0
        longest = min(self._cap, self._first * 2.0 ** min(self._attempts - 2, 30))
        return longest * (0.5 + self._chance() / 2)

    def reset(self) -> None:
        """The next attempt is the first again."""
        self._attempts = 0
