"""What is asked of a limiter, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ratelimit.rules import Descriptor, Entries, Rate, Rule, Settlement


@dataclass(slots=True)
class LimitRequest:
    """One question: may these descriptors take `hits_addend` hits each (unless they name their own)?

    Never changed: the same question is often asked again, and then what it meant a moment ago is at hand (`memo`, which
    is the planner's).
    """

    domain: str
    descriptors: tuple[Descriptor, ...]
    hits_addend: int = 0
    memo: object = field(default=None, init=False, repr=False, compare=False)


class Status(NamedTuple):
    """The verdict for one descriptor. `rule` is None when no limit counts for it.

    Of several limits of a descriptor it is the one that says most: that is over, or else has least left. `remaining` is
    what the window still has, `reset_seconds` how long until the next one, `hits` what was asked for. A reserve that is
    not over may stand in a denied decision: then it has counted nothing. A shadow rule is never over.
    """

    rule: Rule | None
    over: bool
    remaining: int
    reset_seconds: int
    hits: int

    @property
    def rate(self) -> Rate | None:
        """The limit, None when there is none."""
        return None if self.rule is None or self.rule.unlimited else self.rule.rate


class Decision(NamedTuple):
    """The verdict for a request: over when any status is, quotas aside, or when every quota is.

    `reservations` hold, by label, what was reserved and waits to be settled; none when the call is denied.
    """

    over: bool
    statuses: tuple[Status, ...]
    reservations: tuple[tuple[str, Settlement], ...] = ()


class Ended(NamedTuple):
    """A call that is over: the entries of its limit, what it had reserved, and what it used."""

    entries: Entries
    reserved: Settlement
    used: int
