"""What an algorithm must know, whoever keeps its state. Pure: no clock, no I/O, whole numbers only.

Time is in microseconds, hits are whole. Every number stays at or below `MOST`, and every division is exact (floor and
remainder of the whole product), so that the Lua scripts, whose numbers are doubles, give the same answers.
"""

from __future__ import annotations

from typing import Protocol

from ratelimit.windows import MAX_AMOUNT

MOST = MAX_AMOUNT  # 2**53 - 1: the largest whole number that a double and all below it hold exactly
SECOND = 1_000_000  # microseconds


def microseconds(now: float) -> int:
    """Unix seconds as whole microseconds."""
    return int(now * SECOND)


def seconds_up(time: int) -> int:
    """So many microseconds in whole seconds, rounded up."""
    return -(-time // SECOND)


class Counter(Protocol):
    """One counter at one time, under one limit. The time it was made with is its now.

    Time never goes backward: a counter that has seen a later time than now is the counter of that time.
    """

    @property
    def now(self) -> int:
        """The time that it is for the counter."""

    @property
    def capacity(self) -> int:
        """How many hits may be in use: the limit, or a bucket's size."""

    @property
    def in_use(self) -> int:
        """How many hits are in use, rounded up: so many more as `capacity` leaves could pass now."""

    def add(self, hits: int) -> Counter:
        """The counter after so many hits now, whether they fit or not."""

    def correct(self, hits: int, at: int) -> Counter:
        """The counter after a difference to what was counted at `at`. Nothing falls below zero.

        Where the hits that were counted at `at` no longer weigh, a refund is lost; what is owed is owed now.
        """

    def until_fits(self, hits: int) -> int:
        """How long until so many hits fit, when nothing else comes. They are no more than `capacity`, and do not fit.

        Where that can never be (a bucket that is not refilled), `MOST`.
        """

    @property
    def until_free(self) -> int:
        """How long until nothing is in use, when nothing else comes: at most `MOST`."""
