"""What a client sees of a decision. Whoever composes the service decides it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ratelimit.decision import Decision, Status
from ratelimit.options import Options


class Presentation(NamedTuple):
    """Headers for every answer, and the body of Envoy's own answer when the call is over its limit."""

    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Presenter(Protocol):
    """Shows a decision. Any function of this shape is one; it must not raise."""

    def __call__(self, decision: Decision, /) -> Presentation:
        """How the client sees `decision`."""


NOTHING = Presentation()


def plain(_decision: Decision) -> Presentation:
    """Nothing besides the status, as envoyproxy/ratelimit does."""
    return NOTHING


class Headers:
    """The headers of envoyproxy/ratelimit (`LIMIT_RESPONSE_HEADERS_ENABLED`): limit, remaining and reset.

    Of the last limit that denies the call, quotas aside, else of the first one with the least remaining.
    """

    def __init__(self, names: tuple[str, str, str], options: Options) -> None:
        self._names = names
        self._options = options

    def __call__(self, decision: Decision, /) -> Presentation:
        """The three headers, none when nothing is limited."""
        shown: Status | None = None
        for status in decision.statuses:
            if status.rule is None or status.rate is None:
                continue
            denies = status.over and not (status.rule.quota or self._options.quota)
            nearer = shown is None or (not shown.over and status.remaining < shown.remaining)
            if denies or nearer:
                shown = status
        if shown is None or shown.rate is None:
            return NOTHING
        values = (shown.rate.amount, 0 if shown.over else shown.remaining, shown.reset_seconds)
        return Presentation(tuple((name, str(value)) for name, value in zip(self._names, values, strict=True)))


def presenter(options: Options) -> Presenter:
    """How the stand-alone service shows decisions."""
    return plain if options.headers is None else Headers(options.headers, options)
