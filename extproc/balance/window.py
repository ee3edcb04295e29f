"""How much went well and how much failed in the last seconds."""

from __future__ import annotations

from typing import NamedTuple


class Tally(NamedTuple):
    """Attempts that were served and that failed."""

    served: int
    failed: int

    @property
    def attempts(self) -> int:
        """All of them."""
        return self.served + self.failed

    def fails(self, share: float) -> bool:
        """Whether at least `share` of them failed."""
        return self.failed >= share * self.attempts


class Window:
    """Counts of the last `slots` steps of `step` seconds, the running one included. Memory is O(slots).

    Weakness: a whole step is forgotten at a time.
    """

    __slots__ = ("_failed", "_last", "_served", "_slots", "_step", "_sums")

    def __init__(self, slots: int, step: float = 1.0) -> None:
        self._slots = slots
        self._step = step
        self._last = -1
        self._served = [0] * slots
        self._failed = [0] * slots
        self._sums = [0, 0]  # served and failed in all slots

    def add(self, now: float, *, failed: bool) -> None:
        """Count one attempt at `now` (seconds, never going back)."""
        slot = self._turn(now)
        counts = self._failed if failed else self._served
        counts[slot] += 1
        self._sums[failed] += 1

    def tally(self, now: float) -> Tally:
        """All that the window holds."""
        self._turn(now)
        return Tally(self._sums[0], self._sums[1])

    def newest(self, now: float) -> Tally:
        """The running step and the one before."""
        slot = self._turn(now)
        before = (slot - 1) % self._slots
        return Tally(self._served[slot] + self._served[before], self._failed[slot] + self._failed[before])

    def clear(self) -> None:
        """Forget everything."""
        self._served = [0] * self._slots
        self._failed = [0] * self._slots
        self._sums = [0, 0]

    def _turn(self, now: float) -> int:
        step = int(now // self._step)
        if step > self._last:
            for passed in range(max(self._last + 1, step - self._slots + 1), step + 1):
                slot = passed % self._slots
                self._sums[0] -= self._served[slot]
                self._sums[1] -= self._failed[slot]
                self._served[slot] = self._failed[slot] = 0
            self._last = step
        return self._last % self._slots
