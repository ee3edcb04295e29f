"""Keys that have something in common: a tag, or the second they expire in."""

from __future__ import annotations

import heapq

_SMALL = 64  # keys: a set of fewer is never worth a copy


class Group:
    """A set of keys that also gives back the room of keys that have left, which Python's own does not.

    Keys are added to `keys` as they are; they leave by `discard` or `pop` alone.
    """

    __slots__ = ("_peak", "keys", "name")

    def __init__(self, name: str | int) -> None:
        self.name = name
        self.keys: set[bytes] = set()
        self._peak = _SMALL  # as of the last time that one left, so that it need not be kept when one comes

    def discard(self, key: bytes) -> int:
        """Take the key out; how many are left."""
        keys = self.keys
        size = len(keys)
        if size > self._peak:
            self._peak = size
        elif 4 * size < self._peak and size > _SMALL:
            self.keys = keys = set(keys)
            self._peak = size
        keys.discard(key)
        return len(keys)

    def pop(self) -> bytes:
        """Take any key out. Raises `KeyError` when there is none."""
        key = self.keys.pop()  # remembers where it was, so that emptying a large set is not quadratic
        self.discard(key)
        return key


class Calendar:
    """Which keys expire when, the first ones first, in constant time each.

    Long lives are rounded up by up to a 64th, so that few seconds have a group of their own, however many the keys.
    """

    def __init__(self) -> None:
        self._groups: dict[int, Group] = {}
        self.seconds: list[int] = []  # a heap of when to look, the first one first

    def at(self, expires: float, now: float) -> Group:
        """The group of what expires at `expires` or a little later. It stays until it is `due`."""
        second = int(expires) + 1
        life = second - int(now)
        if life >= 128:
            grain = 1 << (life.bit_length() - 7)
            second = (second + grain - 1) & -grain
        group = self._groups.get(second)
        if group is None:
            group = self._groups[second] = Group(second)
            heapq.heappush(self.seconds, second)
        return group

    def due(self, now: float) -> Group | None:
        """A group whose time is over and that still has keys, None when there is none. It must then be emptied."""
        while self.seconds and self.seconds[0] <= now:
            group = self._groups[self.seconds[0]]
            if group.keys:
                return group
            del self._groups[heapq.heappop(self.seconds)]
        return None
