"""The algorithms once more, as simply as they can be said: lists and fractions, nothing packed, nothing rounded."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Protocol

from ratelimit.algorithms.base import SECOND
from ratelimit.rules import Algorithm


class Reference(Protocol):
    """A counter. Times are in microseconds and never go backward here."""

    capacity: int

    def in_use(self, now: int) -> int: ...

    def add(self, hits: int, now: int) -> None: ...

    def correct(self, hits: int, at: int, now: int) -> None: ...


class LogReference:
    def __init__(self, limit: int, period: int, burst: int) -> None:
        self.capacity = limit
        self.period = period
        self.entries: list[tuple[int, int]] = []

    def in_use(self, now: int) -> int:
        self.entries = [(at, hits) for at, hits in self.entries if at + self.period > now]
        if sum(hits for _, hits in self.entries) <= 0:
            self.entries = []
        return sum(hits for _, hits in self.entries)

    def add(self, hits: int, now: int) -> None:
        least = -self.in_use(now)
        self.entries.append((now, max(hits, least)))

    def correct(self, hits: int, at: int, now: int) -> None:
        if min(at, now) + self.period > now:
            least = -self.in_use(now)
            self.entries.append((min(at, now), max(hits, least)))
        elif hits > 0:
            self.add(hits, now)


class WindowReference:
    def __init__(self, limit: int, period: int, burst: int) -> None:
        self.capacity = limit
        self.period = period
        self.buckets: dict[int, int] = {}

    def in_use(self, now: int) -> int:
        number, passed = divmod(now, self.period)
        share = Fraction(self.period - passed, self.period)
        return ceil(self.buckets.get(number, 0) + self.buckets.get(number - 1, 0) * share)

    def add(self, hits: int, now: int) -> None:
        self.correct(hits, now, now)

    def correct(self, hits: int, at: int, now: int) -> None:
        number = now // self.period
        there = min(number, at // self.period)
        if there < number - 1:
            if hits < 0:
                return
            there = number
        self.buckets[there] = max(0, self.buckets.get(there, 0) + hits)


class BucketReference:
    def __init__(self, limit: int, period: int, burst: int) -> None:
        self.capacity = burst if limit else 0
        self.rate = Fraction(limit, period)
        self.used = Fraction(0)
        self.time = 0

    def _leak(self, now: int) -> None:
        self.used = max(Fraction(0), self.used - self.rate * (now - self.time))
        self.time = now

    def in_use(self, now: int) -> int:
        self._leak(now)
        return ceil(self.used)

    def add(self, hits: int, now: int) -> None:
        self._leak(now)
        self.used = max(Fraction(0), self.used + hits)

    def correct(self, hits: int, at: int, now: int) -> None:
        self.add(hits, now)


class FixedReference:
    """A key is one window: it never ends here."""

    def __init__(self, limit: int, period: int, burst: int) -> None:
        self.capacity = limit
        self.value = 0

    def in_use(self, now: int) -> int:
        return self.value

    def add(self, hits: int, now: int) -> None:
        self.value = max(0, self.value + hits)

    def correct(self, hits: int, at: int, now: int) -> None:
        self.add(hits, now)


def reference(algorithm: Algorithm, limit: int, seconds: int, burst: int) -> Reference:
    kinds: dict[Algorithm, type[LogReference | WindowReference | BucketReference | FixedReference]] = {
        Algorithm.FIXED_WINDOW: FixedReference,
        Algorithm.SLIDING_WINDOW: WindowReference,
        Algorithm.SLIDING_LOG: LogReference,
        Algorithm.TOKEN_BUCKET: BucketReference,
        Algorithm.GCRA: BucketReference,
    }
    return kinds[algorithm](limit, seconds * SECOND, burst)
