"""Leases: hits that were taken from the store at once, and are given out here without asking it again.

What a lease holds is counted in the store already, so leases never admit more than the limit. They may deny too early:
while one process is told that the limit is reached, the others together may still hold up to
(processes - 1) x lease hits. Near the limit leases shrink (a quarter of what was left is asked at most), down to
single hits, and unused hits end with their window.
"""

from __future__ import annotations

from dataclasses import dataclass

_MOST = 100_000  # leases at once; the oldest go
_PART = 4  # a lease is at most this part of what the window has left


@dataclass(slots=True)
class _Lease:
    left: int
    value: int  # the counter in the store when it was last seen
    asking: bool = False  # a lease is on its way: others ask for what they need alone


class Leases:
    """The leases of one process, by the key of their counter (which holds its window's start)."""

    def __init__(self) -> None:
        self._leases: dict[str, _Lease] = {}
        self.saved = 0  # checks of a limit that needed no round trip

    def __len__(self) -> int:
        return len(self._leases)

    def take(self, key: str, hits: int) -> int | None:
        """The hits out of the lease: the counter less what is still held here. None when too few are held."""
        lease = self._leases.get(key)
        if lease is None or lease.left < hits:
            return None
        lease.left -= hits
        self.saved += 1
        return lease.value - lease.left

    def held(self, key: str) -> int:
        """How many hits may still be given out."""
        lease = self._leases.get(key)
        return 0 if lease is None else lease.left

    def give_back(self, key: str, hits: int) -> None:
        """Hits that were taken, for a call that was then denied."""
        lease = self._leases.get(key)
        if lease is not None:
            lease.left += hits

    def size(self, key: str, hits: int, lease: int, limit: int) -> int:
        """How many hits to ask the store for, when `hits` are needed and a lease is `lease`."""
        known = self._leases.get(key)
        if known is None or known.asking:
            return hits  # the first answer tells how much there is
        size = max(hits, min(lease, (limit - known.value) // _PART))
        known.asking = size > hits
        return size

    def granted(self, key: str, hits: int, used: int, value: int) -> None:
        """The store counted so many hits, of which the call used so many; its counter is then `value`."""
        lease = self._leases.get(key)
        if lease is None:
            lease = self._leases[key] = _Lease(0, value)
            if len(self._leases) > _MOST:
                del self._leases[next(iter(self._leases))]
        lease.value = value
        if hits > used:
            lease.left += hits - used
            lease.asking = False

    def refused(self, key: str, value: int | None = None) -> None:
        """The store did not grant a lease; its counter is `value`. None: it did not answer."""
        lease = self._leases.get(key)
        if lease is not None:
            lease.asking = False
            if value is not None:
                lease.value = value
