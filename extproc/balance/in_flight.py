"""How many requests a target has in flight, from two halves that may not match."""

from __future__ import annotations

_STEP = 60.0  # seconds
_STEPS = 10


class InFlight:
    """Requests by the minute they began in, so that one whose end is never reported counts for ten minutes only.

    Weakness: one that runs for longer is forgotten too, while it still runs.
    """

    __slots__ = ("_began", "_count", "_last")

    def __init__(self) -> None:
        self._began = [0] * _STEPS
        self._count = 0
        self._last = 0

    def began(self, now: float) -> None:
        """A request begins at `now` (seconds)."""
        self._turn(now)
        self._began[self._last % _STEPS] += 1
        self._count += 1

    def ended(self, now: float, seconds: float, count: int = 1) -> None:
        """`count` requests have ended that began about `seconds` ago. What never began here changes nothing."""
        self._turn(now)
        minutes = int(now // _STEP) - int((now - seconds) // _STEP)
        if minutes >= _STEPS:
            return  # forgotten already
        slot = (self._last - minutes) % _STEPS
        if minutes >= 0 and self._began[slot] >= count:  # as nearly always
            self._began[slot] -= count
            self._count -= count
            return
        # The report is a little late, so the minute may be the one before; any other means that counts were lost.
        for back in sorted(range(_STEPS), key=lambda other: abs(other - minutes - 0.1)):
            slot = (self._last - back) % _STEPS
            taken = min(count, self._began[slot])
            self._began[slot] -= taken
            self._count -= taken
            count -= taken
            if not count:
                return

    def count(self, now: float) -> int:
        """How many there are."""
        self._turn(now)
        return self._count

    def _turn(self, now: float) -> None:
        step = int(now // _STEP)
        if step > self._last:
            for passed in range(max(self._last + 1, step - _STEPS + 1), step + 1):
                slot = passed % _STEPS
                self._count -= self._began[slot]
                self._began[slot] = 0
            self._last = step
