"""What a store must do: apply the operations of one decision together."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from ratelimit.rules import Algorithm

MAX_COUNT = 2**53 - 1  # a counter stops here: the largest number that a Lua script counts exactly


class Action(Enum):
    """What an operation does to its counter; the values are those of the scripts."""

    ADD = "add"  # count the hits, whatever the limit (a shape that counts admitted calls alone: unless it is over)
    RESERVE = "reserve"  # count the hits only if no operation of this decision (but a WATCH) is over
    # Count the hits unless another operation of this decision is over and this one is not (a shape: or this one is).
    STOP = "stop"
    WATCH = "watch"  # count as ADD does; being over keeps no other operation from counting
    ADJUST = "adjust"  # add a difference that may be negative; never over a limit


class Shape(NamedTuple):
    """An algorithm other than the fixed window, and its measures.

    `period` is the window in seconds, in which the operation's `limit` is allowed. `burst` is what may pass at once
    where the algorithm knows bursts: the bucket's size, and then what the operation is over of, not the limit.
    """

    algorithm: Algorithm
    period: int
    burst: int


class Operation(NamedTuple):
    """One counter of one decision. `ttl` is in seconds from now; ADJUST ignores `limit` in a fixed window.

    A shape's counter lives until it is free again, whatever `ttl` says.

    `shape` None is a fixed window, whose start is part of the key. `at` (unix seconds) is when the hits that an ADJUST
    corrects were counted. `per_second` marks the counters of a one-second window, which may live in a store of their
    own.
    """

    key: str
    action: Action
    hits: int
    limit: int
    ttl: int
    shape: Shape | None = None
    at: int = 0
    per_second: bool = False


def are_shaped(operations: Sequence[Operation]) -> bool:
    """Whether one of them is no fixed window."""
    for operation in operations:  # noqa: SIM110 - any() makes a generator, and this is asked of every decision
        if operation.shape is not None:
            return True
    return False


class Count(NamedTuple):
    """The counter after the operation. `over`: with these hits it is, or a reserve would be, over its limit.

    When any operation of a decision but a WATCH is over, none of its reserves counts; their `value` is then the counter
    without them. A shape's `value` is what is in use: the limit (of a bucket: its size) less what could pass now.
    `reset` is in whole seconds, of shapes alone: until the same call would pass when it is over (as long as it may
    take when it never fits), else until everything is free again.
    """

    value: int
    over: bool = False
    reset: int = 0


class Store(Protocol):
    """Keeps counters between 0 and `MAX_COUNT`. See each store for what it decides in one step."""

    def apply(self, operations: Sequence[Operation], now: float) -> list[Count] | Awaitable[Sequence[Count]]:
        """Apply one decision at `now` (unix seconds): one count for each operation. Raises `StoreError`."""

    async def forget(self, keys: Sequence[str]) -> None:
        """Delete counters, as if nothing had been counted. Raises `StoreError`; some may then be deleted."""

    async def ping(self) -> None:
        """Raise `StoreError` when the store does not answer."""

    async def close(self) -> None:
        """Let go of connections."""
