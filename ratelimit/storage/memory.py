"""The embedded store: counters of one process. Exact within it, gone with it, never larger than its bound."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from ratelimit.storage.base import MAX_COUNT, Action, Count, Operation


class MemoryStore:
    """Counters in a dict, and their keys by the second they expire in.

    Windows end together, so there are few such seconds: every decision drops a few expired counters, more
    than it can have added, in constant time each. At `max_counters` the counter that would expire first goes,
    which forgives what it had counted: size the bound above the number of live counters.
    """

    def __init__(self, max_counters: int = 1_000_000) -> None:
        self._max = max_counters
        self._counters: dict[str, tuple[int, int]] = {}  # value, expiry in unix seconds
        self._expiries: list[int] = []  # a heap of the keys of _expiring
        self._expiring: dict[int, list[str]] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._counters)

    def apply(self, operations: Sequence[Operation], now: float) -> Sequence[Count]:
        """Apply one decision, in one step. Never waits, never fails."""
        second = int(now)
        asked: dict[str, int] = {}
        overs: list[bool] = []
        denied = False
        for key, action, hits, limit, *_ in operations:
            over = False
            if action is not Action.ADJUST:
                asked[key] = wanted = asked.get(key, 0) + hits
                over = self._value(key, second) + wanted > limit
                denied = denied or (over and action is not Action.WATCH)
            overs.append(over)
        counts = []
        for (key, action, hits, _, ttl, *_), over in zip(operations, overs, strict=True):
            value = self._value(key, second)
            if hits and not (denied and action is Action.RESERVE):
                before, value = value, min(MAX_COUNT, max(0, value + hits))
                if value != before:
                    self._put(key, value, second, ttl)
            counts.append(Count(value, over))
        if self._expiries and self._expiries[0] <= second:
            self._sweep(second, 2 * len(operations) + 8)
        return counts

    async def ping(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """Nothing to let go of."""

    def _value(self, key: str, second: int) -> int:
        found = self._counters.get(key)
        return found[0] if found is not None and found[1] > second else 0

    def _put(self, key: str, value: int, second: int, ttl: int) -> None:
        found = self._counters.get(key)
        if found is not None and found[1] > second:
            self._counters[key] = (value, found[1])
            return
        if found is None and len(self._counters) >= self._max:
            self.evicted += 1
            while len(self._counters) >= self._max:
                self._drop_first()
        expiry = second + ttl
        self._counters[key] = (value, expiry)
        keys = self._expiring.get(expiry)
        if keys is None:
            keys = self._expiring[expiry] = []
            heapq.heappush(self._expiries, expiry)
        keys.append(key)

    def _sweep(self, second: int, most: int) -> None:
        for _ in range(most):
            if not self._expiries or self._expiries[0] > second:
                return
            self._drop_first()

    def _drop_first(self) -> None:
        """Drop one counter of those that expire first, or one note of a counter that was made anew since."""
        expiry = self._expiries[0]
        keys = self._expiring[expiry]
        key = keys.pop()
        if not keys:
            del self._expiring[expiry]
            heapq.heappop(self._expiries)
        found = self._counters.get(key)
        if found is not None and found[1] == expiry:
            del self._counters[key]
