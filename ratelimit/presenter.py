"""What a client sees of a decision. Whoever composes the service decides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ratelimit.limiter import Decision


@dataclass(frozen=True, slots=True)
class Presentation:
    """Headers for every answer, and the body of Envoy's own answer when the call is over its limit."""

    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Presenter(Protocol):
    """Shows a decision. Any function of this shape is one; it must not raise."""

    def __call__(self, decision: Decision, /) -> Presentation:
        """How the client sees `decision`."""


def plain(_decision: Decision) -> Presentation:
    """Nothing besides the status, as envoyproxy/ratelimit does."""
    return Presentation()
