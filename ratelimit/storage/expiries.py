"""When to look at keys again: by the second, the first ones first, in constant time each."""

from __future__ import annotations

import heapq


class Expiries:
    """Keys and the second each of them is due. Whoever keeps the keys notes each of them once.

    Long lives are rounded up by up to a 64th, so that few seconds have a list of their own, however many the keys are.
    """

    def __init__(self) -> None:
        self.seconds: list[int] = []  # a heap: the first is due first
        self._keys: dict[int, list[str]] = {}  # by those seconds

    def __len__(self) -> int:
        return sum(map(len, self._keys.values()))

    def note(self, key: str, expiry: int, now: int) -> None:
        """The key is due at `expiry`, or a little later. `now` tells how long it lives."""
        if expiry - now >= 128:
            grain = 1 << ((expiry - now).bit_length() - 7)
            expiry = (expiry + grain - 1) & -grain
        keys = self._keys.get(expiry)
        if keys is None:
            keys = self._keys[expiry] = []
            heapq.heappush(self.seconds, expiry)
        keys.append(key)

    def pop(self) -> tuple[str, int]:
        """One of the keys that are due first, and the second it was due. Raises `IndexError` when there is none."""
        due = self.seconds[0]
        keys = self._keys[due]
        key = keys.pop()
        if not keys:
            del self._keys[due]
            heapq.heappop(self.seconds)
        return key, due
