"""Operations that tests start from."""

from __future__ import annotations

from ratelimit.rules import Algorithm
from ratelimit.storage.base import Action, Operation, Shape

NOON = 1_700_000_040  # the start of a minute
SHAPES = [one for one in Algorithm if one is not Algorithm.FIXED_WINDOW]


def operation(
    key: str,
    action: Action = Action.ADD,
    hits: int = 1,
    limit: int = 100,
    *,
    algorithm: Algorithm = Algorithm.FIXED_WINDOW,
    seconds: int = 60,
    burst: int | None = None,
    at: int = NOON,
    per_second: bool = False,
) -> Operation:
    """One counter of one decision, of a minute unless it says otherwise; a bucket's size is the limit."""
    shape = None
    if algorithm is not Algorithm.FIXED_WINDOW:
        shape = Shape(algorithm, seconds, limit if burst is None else burst)
    return Operation(key, action, hits, limit, seconds, shape, at, per_second)
