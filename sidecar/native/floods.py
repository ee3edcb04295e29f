"""Floods: what one peer may make us do for nothing (RFC 9113, section 10.5)."""

from __future__ import annotations

import asyncio

from sidecar.native.errors import ConnectionFault, ErrorCode


class Budget:
    """A token bucket: `spend` says whether there was still something to spend.

    Work that ends well gives back, so that busy peers never run out, and peers that only make work do.
    """

    __slots__ = ("_at", "_left", "_most", "_per_second")

    def __init__(self, most: float, per_second: float) -> None:
        self._most = most
        self._left = most
        self._per_second = per_second
        self._at = 0.0

    def spend(self, now: float, amount: float = 1.0) -> bool:
        """Take `amount` at `now` (seconds, any origin that never goes back)."""
        if self._left < amount:
            self._left = min(self._most, self._left + (now - self._at) * self._per_second)
            self._at = now
            if self._left < amount:
                return False
        elif self._left >= self._most:
            self._at = now
        self._left -= amount
        return True

    def give(self, amount: float) -> None:
        """Give back for work that ended well."""
        self._left = min(self._most, self._left + amount)


class Floods:
    """The budgets of one connection. `ended_well` counts calls; they pay for a peer that is merely busy."""

    __slots__ = ("_idle", "_loop", "_resets", "ended_well")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._idle = Budget(2_000, 500)
        # Generous: when a gateway's clients all run out of time, their calls are reset in masses and in good faith.
        self._resets = Budget(5_000, 1_000)
        self.ended_well = 0

    def spend(self, amount: float = 1.0) -> None:
        """A frame made work and carried nothing. Raises `ConnectionFault` when there were too many."""
        self._give_back()
        if not self._idle.spend(self._loop.time(), amount):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "frames that carry nothing, without end (10.5)")

    def spend_reset(self) -> None:
        """A stream was reset, by the peer (CVE-2023-44487) or by us because of what it sent (CVE-2025-8671).

        Raises `ConnectionFault` when there were too many.
        """
        self._give_back()
        if not self._resets.spend(self._loop.time()):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "streams are opened to be reset (10.5)")

    def _give_back(self) -> None:
        if self.ended_well:
            self._idle.give(4 * self.ended_well)
            self._resets.give(self.ended_well)
            self.ended_well = 0
