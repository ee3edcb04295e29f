"""Token bucket: a bucket of `size` tokens, refilled evenly with `limit` tokens per period; a hit takes one.

Kept from the other side, as what is in use and leaks away (the leaky bucket as a meter, the same thing: ITU-T I.371).
Fractions of a token are kept, so nothing is lost or won by asking often.

Accuracy: exact. In any time t at most size + limit * t / period hits pass. Weakness: that is more than the limit in the
first period after a pause, up to twice with a bucket of the limit's size; a smaller `burst` makes it less. A refund
fills the bucket at once, up to its size, however old the hits are that it corrects: those that have leaked away
already are not given back twice, but a late refund may free what other callers hold.
"""

from __future__ import annotations

from typing import NamedTuple

from ratelimit.algorithms.base import MOST

_TIME_BITS, _PART_BITS = 53, 49  # a part is below the longest period: ten years are 2**48.2 microseconds


class TokenBucket(NamedTuple):
    """`used` hits and `part` / `period` of one are in use."""

    limit: int
    period: int
    size: int
    now: int
    used: int = 0
    part: int = 0

    @classmethod
    def look(cls, stored: int | None, now: int, limit: int, period: int, size: int) -> TokenBucket:
        """The counter as it was packed, refilled up to `now`."""
        if stored is None:
            return cls(limit, period, size, now)
        time = stored & ((1 << _TIME_BITS) - 1)
        part = (stored >> _TIME_BITS) & ((1 << _PART_BITS) - 1)
        used = stored >> (_TIME_BITS + _PART_BITS)
        if now <= time:
            return cls(limit, period, size, time, used, part)
        whole, rest = divmod(limit * (now - time), period)
        used, part = used - whole, part - rest
        if part < 0:
            used, part = used - 1, part + period
        return cls(limit, period, size, now, used, part) if used >= 0 else cls(limit, period, size, now)

    def pack(self) -> int:
        """What is in use, and when that was, in one number."""
        return ((self.used << _PART_BITS) | self.part) << _TIME_BITS | self.now

    @property
    def capacity(self) -> int:
        """The bucket's size. A limit of 0 blocks always."""
        return self.size if self.limit else min(0, self.size)

    @property
    def in_use(self) -> int:
        """Tokens that are missing; one that is there in part is missing."""
        return min(MOST, self.used + (self.part > 0))

    def add(self, hits: int) -> TokenBucket:
        """The tokens are taken, or put back up to the bucket's size."""
        used = self.used + hits
        return self._replace(used=min(MOST, used)) if used >= 0 else self._replace(used=0, part=0)

    def correct(self, hits: int, at: int) -> TokenBucket:
        """A bucket does not know when a token was taken: it is corrected now."""
        del at
        return self.add(hits)

    def until_fits(self, hits: int) -> int:
        """Until enough tokens are there."""
        return self._until_used(self.size - hits)

    @property
    def until_free(self) -> int:
        """Until the bucket is full."""
        return self._until_used(0) if self.used or self.part else 0

    def _until_used(self, used: int) -> int:
        if not self.limit:
            return MOST
        return min(MOST, -((-(self.used - used) * self.period - self.part) // self.limit))
