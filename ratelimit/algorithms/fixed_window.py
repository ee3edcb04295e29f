"""Fixed windows, aligned to the Unix epoch.

Weakness: a client may use the whole limit at the end of one window and again at the start of the next, so
up to twice the limit can pass within one window's length around an edge.
"""

from __future__ import annotations

from ratelimit.rules import SECONDS, Unit

TTL_SLACK = 5  # seconds a counter outlives its window, for clocks that differ


def window_start(now: int, unit: Unit) -> int:
    """The start of the window that `now` (unix seconds) lies in."""
    return now - now % SECONDS[unit]


def seconds_until_reset(now: int, unit: Unit) -> int:
    """Whole seconds to the next window: 1 to the window's length, never 0."""
    length = SECONDS[unit]
    return length - now % length


def counter_key(counter: str, start: int) -> str:
    """The counter's key in the store for the window that starts at `start`."""
    return f"{counter}_{start}"
