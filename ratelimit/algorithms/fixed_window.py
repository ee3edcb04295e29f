"""Fixed windows, aligned to the Unix epoch or to a calendar.

Weakness: a client may use the whole limit at the end of one window and again at the start of the next, so
up to twice the limit can pass within one window's length around an edge.
"""

from __future__ import annotations

TTL_SLACK = 5  # seconds a counter outlives its window, for clocks that differ


def counter_key(counter: str, start: int) -> str:
    """The counter's key in the store for the window that starts at `start`."""
    return f"{counter}_{start}"
