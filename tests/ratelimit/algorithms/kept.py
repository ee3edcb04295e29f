"""A counter between calls: what a store would keep of it."""

from __future__ import annotations

from ratelimit.algorithms.base import SECOND
from ratelimit.algorithms.gcra import Gcra
from ratelimit.algorithms.sliding_log import Log, SlidingLog
from ratelimit.algorithms.sliding_window import SlidingWindow
from ratelimit.algorithms.token_bucket import TokenBucket
from ratelimit.rules import Algorithm

NOON = 1_700_000_040  # the start of a minute
SHAPES = [one for one in Algorithm if one is not Algorithm.FIXED_WINDOW]
BUCKETS = [Algorithm.TOKEN_BUCKET, Algorithm.GCRA]

AnyCounter = SlidingWindow | SlidingLog | TokenBucket | Gcra


class Kept:
    """One counter of one algorithm, packed after every change."""

    def __init__(self, algorithm: Algorithm, limit: int, seconds: int = 60, burst: int | None = None) -> None:
        self.algorithm = algorithm
        self.limit = limit
        self.period = seconds * SECOND
        self.burst = limit if burst is None else burst
        self.packed: int | None = None
        self.log: Log | None = None

    def at(self, now: int) -> AnyCounter:
        if self.algorithm is Algorithm.SLIDING_LOG:
            return SlidingLog.look(self.log, now, self.limit, self.period)
        if self.algorithm is Algorithm.SLIDING_WINDOW:
            return SlidingWindow.look(self.packed, now, self.limit, self.period)
        kind = TokenBucket if self.algorithm is Algorithm.TOKEN_BUCKET else Gcra
        return kind.look(self.packed, now, self.limit, self.period, self.burst)

    def keep(self, counter: AnyCounter) -> None:
        if isinstance(counter, SlidingLog):
            self.log = counter.log
        else:
            self.packed = counter.pack()

    def add(self, hits: int, now: int) -> None:
        self.keep(self.at(now).add(hits))

    def admit(self, hits: int, now: int) -> bool:
        """Whether so many hits pass; if so they are counted."""
        counter = self.at(now)
        fits = counter.in_use + hits <= counter.capacity
        if fits:
            self.keep(counter.add(hits))
        return fits
