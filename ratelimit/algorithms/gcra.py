"""GCRA, the generic cell rate algorithm: one time is the whole state, the next hit's theoretical arrival time (TAT).

Each hit moves the TAT by period / limit; a hit passes while the TAT is no further ahead than the burst takes. ITU-T
I.371 (virtual scheduling). Fractions of a microsecond are kept, so limits of many hits per microsecond (money in
micro-units) are exact.

Accuracy: exact, and the same verdicts as a token bucket of the same size; choose by what should stay when the limit
changes: here the time until everything is free, there the tokens. Weakness: as the token bucket's. The state holds no
time but the TAT: a caller whose clock is behind sees more in use than there is, never less, for as long as it is
behind, and is never held to the clock of others.
"""

from __future__ import annotations

from typing import NamedTuple

from ratelimit.algorithms.base import MOST

_TAT_BITS = 53


class Gcra(NamedTuple):
    """The TAT is `tat` microseconds and `part` / `limit` of one; never before `now`."""

    limit: int
    period: int
    size: int
    now: int
    tat: int
    part: int = 0

    @classmethod
    def look(cls, stored: int | None, now: int, limit: int, period: int, size: int) -> Gcra:
        """The counter as it was packed, at `now`."""
        if stored is None:
            return cls(limit, period, size, now, now)
        tat = stored & ((1 << _TAT_BITS) - 1)
        if tat < now:
            return cls(limit, period, size, now, now)
        # The limit may have changed since, and with it what a part is: never more than one microsecond.
        return cls(limit, period, size, now, tat, min(stored >> _TAT_BITS, max(0, limit - 1)))

    def pack(self) -> int:
        """The TAT in one number."""
        return self.part << _TAT_BITS | self.tat

    @property
    def capacity(self) -> int:
        """How many hits may come at once. A limit of 0 blocks always."""
        return self.size if self.limit else min(0, self.size)

    @property
    def in_use(self) -> int:
        """How many hits the TAT is ahead, rounded up."""
        return min(MOST, -(-((self.tat - self.now) * self.limit + self.part) // self.period))

    def add(self, hits: int) -> Gcra:
        """The TAT moves by so many hits, back to now at most."""
        if not self.limit:
            return self
        tat, part = divmod(self.tat * self.limit + self.part + hits * self.period, self.limit)
        if tat < self.now:
            tat, part = self.now, 0
        return self._replace(tat=tat, part=part) if tat < MOST else self._replace(tat=MOST, part=0)

    def correct(self, hits: int, at: int) -> Gcra:
        """A TAT does not know when a hit came: it is corrected now."""
        del at
        return self.add(hits)

    def until_fits(self, hits: int) -> int:
        """Until the TAT is near enough."""
        room, part = divmod((self.size - hits) * self.period, self.limit)
        return self.tat - self.now - room + (self.part > part)

    @property
    def until_free(self) -> int:
        """Until the TAT has come."""
        return self.tat - self.now + (self.part > 0)
