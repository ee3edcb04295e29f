"""What one process tells the others about a target."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What has happened, and to what: a cluster cools or is ejected, an endpoint cannot be reached."""

    COOLING = "cooling"
    EJECTED = "ejected"
    UNREACHABLE = "unreachable"


class Notice(NamedTuple):
    """`subject` (a cluster, or an endpoint that is unreachable) is to be left out for `seconds` from now."""

    kind: Kind
    subject: str
    seconds: float
    reason: str
