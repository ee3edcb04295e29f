"""Fixed windows, aligned to the Unix epoch.

Weakness: a client may use the whole limit at the end of one window and again at the start of the next, so
up to twice the limit can pass within one window's length around an edge.
"""

from __future__ import annotations

from ratelimit.rules import Entries, Mode, Unit

_ESCAPES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})
TTL_SLACK = 5  # seconds a counter outlives its window, for clocks that differ


def window_start(now: int, unit: Unit) -> int:
    """The start of the window that `now` (unix seconds) lies in."""
    return now - now % unit.seconds


def seconds_until_reset(now: int, unit: Unit) -> int:
    """Whole seconds to the next window: 1 to the window's length, never 0."""
    return unit.seconds - now % unit.seconds


def counter_key(domain: str, entries: Entries, mode: Mode, start: int) -> str:
    """The counter's key in the store.

    In `CONSUME` mode it is byte for byte envoyproxy/ratelimit's, so that both may share a Redis. In
    `RESERVE` mode the domain and the first entry are a hash tag: the counters of one tenant live together
    and can be decided in one step. Braces in it are escaped, because the first `}` would end the tag.
    """
    if mode is Mode.CONSUME:
        return "_".join((domain, *(part for entry in entries for part in entry), str(start)))
    (key, value), rest = entries[0], entries[1:]
    tag = f"{domain}_{key}_{value}".translate(_ESCAPES)
    return "_".join((f"{{{tag}}}", *(part for entry in rest for part in entry), str(start)))
