"""Sliding log: every counted call is written down with its time and is in use for one period.

Accuracy: exact, in any window of one period, to the microsecond. Weakness: state and memory grow with the calls that
one window counts (calls of the same microsecond are one entry), and the first call after a pause pays for all that
has expired meanwhile. For small limits that must be exact; see `sliding_window` for the others.

A correction is an entry at the second of what it corrects, so it expires with that or up to a second before, never
after it: for that second a refund is withheld, and what was owed on top is forgiven. A log whose entries sum up to
nothing, or to less because it holds refunds without what they refund (a store that has lost its newest writes), is
emptied: credit is never kept.
"""

from __future__ import annotations

from array import array
from typing import TypeAlias

from ratelimit.algorithms.base import MOST

MOST_LOOKED_AT = 128  # entries that are asked when a denied call may come again

# A word for whoever keeps the log, the sum, where the entries that have not expired begin; then a time and its hits for
# each entry, oldest first.
Log: TypeAlias = "array[int]"

KEEPER = 0
_SUM, _BEGIN, _FIRST = 1, 2, 3
_TIDY_FROM = 64  # expired words that are worth moving the others for


def empty() -> Log:
    """A log without entries."""
    return array("q", (0, 0, _FIRST))


class SlidingLog:
    """A log at one time. Unlike the other algorithms' states it changes in place, because it may be long."""

    __slots__ = ("_limit", "_log", "_period", "now")

    def __init__(self, log: Log, now: int, limit: int, period: int) -> None:
        self._log = log
        self._limit = limit
        self._period = period
        self.now = max(now, log[-2]) if len(log) > _FIRST else now

    @classmethod
    def look(cls, stored: Log | None, now: int, limit: int, period: int) -> SlidingLog:
        """The log at `now`: what has expired is forgotten."""
        log = cls(stored if stored is not None else empty(), now, limit, period)
        log._expire()
        return log

    @property
    def log(self) -> Log:
        """What is kept."""
        return self._log

    @property
    def capacity(self) -> int:
        """The limit."""
        return self._limit

    @property
    def in_use(self) -> int:
        """The sum of what has not expired."""
        return self._log[_SUM]

    def add(self, hits: int) -> SlidingLog:
        """An entry now, or more in the entry of this microsecond."""
        return self._enter(hits, self.now)

    def correct(self, hits: int, at: int) -> SlidingLog:
        """An entry at `at` (at now when that is to come), unless it would have expired."""
        at = min(at, self.now)
        if at <= self.now - self._period:
            return self._enter(hits, self.now) if hits > 0 else self
        return self._enter(hits, at)

    def until_fits(self, hits: int) -> int:
        """Until the oldest entries that are in the way expire: when they are many, until all have."""
        log, excess = self._log, self._log[_SUM] + hits - self._limit
        begin = log[_BEGIN]
        for index in range(begin, min(len(log), begin + 2 * MOST_LOOKED_AT), 2):
            excess -= log[index + 1]
            if excess <= 0:
                return log[index] + self._period - self.now
        return self.until_free

    @property
    def until_free(self) -> int:
        """Until the newest entry expires."""
        return self._log[-2] + self._period - self.now if self._log[_SUM] else 0

    def _expire(self) -> None:
        log = self._log
        begin, until = log[_BEGIN], self.now - self._period
        if begin == len(log) or log[begin] > until:
            return
        left = log[_SUM]
        while begin < len(log) and log[begin] <= until:
            left = max(-MOST, min(MOST, left - log[begin + 1]))
            begin += 2
        self._keep(left, begin)

    def _enter(self, hits: int, at: int) -> SlidingLog:
        log = self._log
        hits = min(MOST - log[_SUM], hits)
        if hits:
            index = self._place(at)
            if index < len(log) and log[index] == at:
                before = log[index + 1]
                hits = min(MOST - before, max(-MOST - before, hits))
                log[index + 1] += hits
                if not log[index + 1]:
                    del log[index : index + 2]
            else:
                log[index:index] = array("q", (at, hits))
            self._keep(log[_SUM] + hits, log[_BEGIN])
        return self

    def _place(self, at: int) -> int:
        """Where the entry of that time is, or would be."""
        log = self._log
        begin = log[_BEGIN]
        if begin == len(log) or log[-2] < at:
            return len(log)
        low, high = 0, (len(log) - begin) // 2
        while low < high:
            middle = (low + high) // 2
            if log[begin + 2 * middle] < at:
                low = middle + 1
            else:
                high = middle
        return begin + 2 * low

    def _keep(self, total: int, begin: int) -> None:
        """Keep the entries from `begin` on. Moved together when half is gone: in constant time for each entry."""
        log = self._log
        if total <= 0 or begin == len(log):
            del log[_FIRST:]
            total, begin = 0, _FIRST
        elif begin - _FIRST > max(_TIDY_FROM, len(log) // 2):
            del log[_FIRST:begin]
            begin = _FIRST
        log[_SUM], log[_BEGIN] = total, begin
