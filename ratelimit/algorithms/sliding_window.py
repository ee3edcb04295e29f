"""Sliding window counter: two buckets, the previous one weighted by how much of it the window still covers.

In use is the current window's count and, of the previous window's, the share that the last `period` still covers.
Described by Cloudflare, "How we built rate limiting capable of scaling to millions of domains" (2017).

Accuracy: right when the previous window's hits came evenly. When they came all at its end, they are taken for older
than they are, and up to twice the limit less one can pass within one window's length (the worst case: a burst at the
end of a window, all of it forgotten one period after that window's start); when they came all at its start, up to the
whole limit is withheld too long. A window's edge itself lets nothing through twice.
Where the clock of one caller is behind, its hits are counted in the newest window that the counter knows.
"""

from __future__ import annotations

from typing import NamedTuple

from ratelimit.algorithms.base import MOST, SECOND

_COUNT_BITS, _START_BITS = 53, 34


class SlidingWindow(NamedTuple):
    """Two buckets. `start` (microseconds) is where the current window began, and the latest time that is remembered."""

    limit: int
    period: int
    now: int
    start: int
    previous: int = 0
    current: int = 0

    @classmethod
    def look(cls, stored: int | None, now: int, limit: int, period: int) -> SlidingWindow:
        """The counter as it was packed, at `now`."""
        start = now - now % period
        if stored is None:
            return cls(limit, period, now, start)
        began = (stored & ((1 << _START_BITS) - 1)) * SECOND
        current = (stored >> _START_BITS) & MOST
        if start <= began:
            return cls(limit, period, max(now, began), began, stored >> (_START_BITS + _COUNT_BITS), current)
        return cls(limit, period, now, start, current if start - began == period else 0)

    def pack(self) -> int:
        """Both buckets and their start in one number."""
        return ((self.previous << _COUNT_BITS) | self.current) << _START_BITS | self.start // SECOND

    @property
    def capacity(self) -> int:
        """The limit."""
        return self.limit

    @property
    def in_use(self) -> int:
        """The current bucket, and the previous one's share, rounded up."""
        covered = self.period - (self.now - self.start)
        return min(MOST, self.current - (-self.previous * covered // self.period))

    def add(self, hits: int) -> SlidingWindow:
        """The hits are in the current bucket."""
        return self._replace(current=min(MOST, max(0, self.current + hits)))

    def correct(self, hits: int, at: int) -> SlidingWindow:
        """The bucket that `at` lies in is corrected."""
        start = at - at % self.period
        if start >= self.start:
            return self.add(hits)
        if start == self.start - self.period:
            return self._replace(previous=min(MOST, max(0, self.previous + hits)))
        return self.add(hits) if hits > 0 else self

    def until_fits(self, hits: int) -> int:
        """Until the weighted bucket weighs little enough: this window's previous one, or the current one after that."""
        room = self.limit - hits
        passed = self.now - self.start
        if self.current > room:  # not in this window: in the next one, where this window's bucket is the previous one
            return 2 * self.period - passed - room * self.period // self.current
        return self.period - passed - (room - self.current) * self.period // self.previous

    @property
    def until_free(self) -> int:
        """Until the window that still covers a hit has passed."""
        left = self.period - (self.now - self.start)
        if self.current:
            return left + self.period
        return left if self.previous else 0
