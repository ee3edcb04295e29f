"""Whether something that fails is tried at all: available -> ejected -> on trial -> available.

Weakness: what is known is late by the length of an attempt and a quarter of a second. Attempts that began before the
last turn of events say nothing about what came after, and are ignored.
"""

from __future__ import annotations

import math
from enum import Enum, auto

from extproc.balance.settings import HealthSettings
from extproc.balance.window import Window

_LAST_RESORT = 4  # times `trial_successes` restore what is tried while ejected, because nothing else is left
_SAME = 0.1  # seconds: what ends that much later is no news


class Phase(Enum):
    """Where in the circle it is."""

    AVAILABLE = auto()
    EJECTED = auto()
    TRIAL = auto()


class Circuit:
    """The failures of one cluster, or of one endpoint. Times are in seconds of one clock that never goes back.

    Methods that report something return whether availability has changed.
    """

    __slots__ = (
        "_fresh_from",
        "_good",
        "_granted_at",
        "_restored_at",
        "_row",
        "_settings",
        "_span",
        "_window",
        "phase",
        "until",
        "why",
    )

    def __init__(self, settings: HealthSettings) -> None:
        self._settings = settings
        self._window = Window(settings.window)
        self._row = 0  # failures since the last success
        self._good = 0  # successes since the ejection, or since the trial began
        self._span = 0.0  # how long the last ejection was
        self._fresh_from = -math.inf  # what began earlier is stale
        self._restored_at = -math.inf
        self._granted_at = -math.inf
        self.phase = Phase.AVAILABLE
        self.until = 0.0  # while ejected
        self.why = ""  # while it is not available

    def failed(self, now: float, began: float, why: str) -> bool:
        """An attempt that began at `began` has failed."""
        if began < self._fresh_from:
            return False
        if self.phase is Phase.EJECTED:
            self._good = 0
            return False
        if self.phase is Phase.TRIAL:
            return self._eject(now, self._next_span(now), f"failed on trial: {why}")
        self._row += 1
        self._window.add(now, failed=True)
        settings, tally = self._settings, self._window.tally(now)
        if tally.attempts >= settings.least_attempts and tally.fails(settings.failure_share):
            why = f"{tally.failed} of {tally.attempts} failed, at last: {why}"
            return self._eject(now, self._next_span(now), why)
        # In dense traffic a run of three comes by chance even when one in twenty fails; then it is a small part of
        # what happened in the last second.
        if self._row >= settings.failures_in_a_row and self._window.newest(now).fails(settings.failure_share):
            return self._eject(now, self._next_span(now), f"{self._row} failures in a row, at last: {why}")
        return False

    def succeeded(self, now: float, began: float) -> bool:
        """An attempt that began at `began` went well."""
        if self.phase is Phase.AVAILABLE:
            self._row = 0
            self._window.add(now, failed=False)
            return False
        if began < self._fresh_from:
            return False
        self._good += 1
        needed = self._settings.trial_successes * (_LAST_RESORT if self.phase is Phase.EJECTED else 1)
        if self._good < needed:
            return False
        self.phase = Phase.AVAILABLE
        self.why = ""
        self._restored_at = now
        return True

    def told(self, now: float, seconds: float, why: str) -> bool:
        """Somebody else has ejected it for `seconds` more. It is never ejected for less than it was."""
        if seconds <= _SAME:
            return False
        if self.phase is not Phase.EJECTED:
            return self._eject(now, max(seconds, self._span), why, seconds)
        if now + seconds <= self.until + _SAME:
            return False
        self.until = now + seconds
        self._span = max(self._span, seconds)
        self.why = why
        return True

    def passes(self, now: float) -> bool:
        """Time passes: an ejection may have ended."""
        if self.phase is not Phase.EJECTED or now < self.until:
            return False
        self.try_out(self.until)
        return True

    def try_out(self, now: float) -> None:
        """It is on trial from `now` on."""
        self.phase = Phase.TRIAL
        self._fresh_from = now
        self._granted_at = -math.inf
        self._good = 0

    def may_try(self, now: float) -> bool:
        """Whether a request may try it first."""
        return self.phase is not Phase.TRIAL or now >= self._granted_at + self._settings.trial_interval

    def tries(self, now: float) -> None:
        """A request does so."""
        self._granted_at = now

    def _next_span(self, now: float) -> float:
        settings = self._settings
        well = self.phase is Phase.AVAILABLE and now - self._restored_at > settings.longest_ejection
        if well or not self._span:
            return settings.ejection
        return min(2 * self._span, settings.longest_ejection)

    def _eject(self, now: float, span: float, why: str, seconds: float | None = None) -> bool:
        self.phase = Phase.EJECTED
        self.until = now + (span if seconds is None else seconds)
        self.why = why
        self._span = span
        self._fresh_from = now
        self._good = self._row = 0
        self._window.clear()
        return True
