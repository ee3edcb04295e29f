"""What a store must do: apply the operations of one decision together."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Action(Enum):
    """What an operation does to its counter; the values are those of `scripts/fixed_window.lua`."""

    ADD = "add"  # count the hits, whatever the limit
    RESERVE = "reserve"  # count the hits only if no reserve of this decision passes its limit
    ADJUST = "adjust"  # add a difference that may be negative; never below 0


@dataclass(frozen=True, slots=True)
class Operation:
    """One counter of one decision. `ttl` is in seconds from now; `limit` matters to RESERVE only."""

    key: str
    action: Action
    hits: int
    limit: int
    ttl: int


@dataclass(frozen=True, slots=True)
class Count:
    """The counter after the operation. `refused`: this RESERVE would have passed its limit.

    When any RESERVE of a decision is refused none of them counts; `value` is then the untouched counter.
    """

    value: int
    refused: bool = False


class Store(Protocol):
    """Keeps counters. Decisions are atomic: nobody sees one half applied (see each store for its bounds)."""

    def apply(self, operations: Sequence[Operation], now: float) -> Sequence[Count] | Awaitable[Sequence[Count]]:
        """Apply one decision at `now` (unix seconds). Raises `StoreError`."""

    async def ping(self) -> None:
        """Raise `StoreError` when the store does not answer."""

    async def close(self) -> None:
        """Let go of connections."""
