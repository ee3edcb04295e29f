"""What a store must do: apply the operations of one decision together."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

MAX_COUNT = 2**53 - 1  # a counter stops here: the largest number that a Lua script counts exactly


class Action(Enum):
    """What an operation does to its counter; the values are those of `scripts/fixed_window.lua`."""

    ADD = "add"  # count the hits, whatever the limit
    RESERVE = "reserve"  # count the hits only if no add and no reserve of this decision is over its limit
    ADJUST = "adjust"  # add a difference that may be negative; never over a limit


class Operation(NamedTuple):
    """One counter of one decision. `ttl` is in seconds from now; ADJUST ignores `limit`."""

    key: str
    action: Action
    hits: int
    limit: int
    ttl: int


class Count(NamedTuple):
    """The counter after the operation. `over`: with these hits it is, or a reserve would be, over its limit.

    When any operation of a decision is over, none of its reserves counts; their `value` is then the counter
    without them.
    """

    value: int
    over: bool = False


class Store(Protocol):
    """Keeps counters between 0 and `MAX_COUNT`. See each store for what it decides in one step."""

    def apply(self, operations: Sequence[Operation], now: float) -> Sequence[Count] | Awaitable[Sequence[Count]]:
        """Apply one decision at `now` (unix seconds): one count for each operation. Raises `StoreError`."""

    async def ping(self) -> None:
        """Raise `StoreError` when the store does not answer."""

    async def close(self) -> None:
        """Let go of connections."""
