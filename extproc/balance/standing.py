"""How a target stands, for the order of targets and for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple


class State(StrEnum):
    """In words."""

    AVAILABLE = "available"
    COOLING = "cooling"  # the provider has asked us to wait
    EJECTED = "ejected"  # it failed
    TRIAL = "trial"  # it was ejected; a few requests try it
    DOWN = "down"  # the active health check says so


class Use(IntEnum):
    """What an order makes of a target."""

    AVAILABLE = 0
    TRIAL = 1
    OUT = 2


class Rank(NamedTuple):
    """`back` is when it is to be tried again (0 unless it is out, infinite when nobody knows)."""

    use: Use
    back: float


AVAILABLE = Rank(Use.AVAILABLE, 0.0)
TRIAL = Rank(Use.TRIAL, 0.0)


@dataclass(frozen=True, slots=True)
class Standing:
    """A state and why. `seconds_left` until it ends, None when no time ends it."""

    state: State
    why: str = ""
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class TargetReport:
    """A target for `/status`: counts of this process in the last five minutes, `share` of all that were served.

    `first_byte_seconds` is a fading average, None when it was never measured.
    """

    cluster: str
    standing: Standing
    first_byte_seconds: float | None
    served: int
    failed: int
    share: float
    in_flight: int
