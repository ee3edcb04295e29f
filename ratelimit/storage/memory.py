"""The embedded store: counters of one process. Exact within it, gone with it, never larger than its bound."""

from __future__ import annotations

from collections.abc import Sequence

from ratelimit.storage.base import Action, Count, Operation

_SWEEP = 8  # old counters looked at per decision: more than one decision can add, so the store drains


class MemoryStore:
    """Counters in a dict, oldest first.

    Expired counters are dropped when they are met, and a few of the oldest are looked at in every decision.
    At `max_counters` the oldest goes, expired or not: memory is bounded, and a limit may then be forgotten.
    """

    def __init__(self, max_counters: int = 1_000_000) -> None:
        self._max = max_counters
        self._counters: dict[str, tuple[int, float]] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._counters)

    def apply(self, operations: Sequence[Operation], now: float) -> Sequence[Count]:
        """Apply one decision. Never waits."""
        values = [self._value(operation.key, now) for operation in operations]
        pending: dict[str, int] = {}
        refusals: list[bool] = []
        for operation, value in zip(operations, values, strict=True):
            if operation.action is not Action.RESERVE:
                refusals.append(False)
                continue
            total = value + pending.get(operation.key, 0) + operation.hits
            pending[operation.key] = pending.get(operation.key, 0) + operation.hits
            refusals.append(total > operation.limit)
        refused = any(refusals)
        counts = []
        for operation, refusal in zip(operations, refusals, strict=True):
            value = self._value(operation.key, now)
            if not (operation.action is Action.RESERVE and refused):
                value = max(0, value + operation.hits)
                self._put(operation, value, now)
            counts.append(Count(value, refusal))
        self._sweep(now)
        return counts

    def _value(self, key: str, now: float) -> int:
        found = self._counters.get(key)
        if found is None:
            return 0
        if found[1] <= now:
            del self._counters[key]
            return 0
        return found[0]

    def _put(self, operation: Operation, value: int, now: float) -> None:
        found = self._counters.get(operation.key)
        if found is None:
            if operation.hits == 0:
                return
            if len(self._counters) >= self._max:
                del self._counters[next(iter(self._counters))]
                self.evicted += 1
            self._counters[operation.key] = (value, now + operation.ttl)
        else:
            self._counters[operation.key] = (value, found[1])

    def _sweep(self, now: float) -> None:
        oldest = []
        for key in self._counters:
            oldest.append(key)
            if len(oldest) == _SWEEP:
                break
        for key in oldest:
            entry = self._counters[key]
            if entry[1] <= now:
                del self._counters[key]
            elif len(self._counters) > _SWEEP:
                # A live one goes to the back, so that the next look meets others.
                del self._counters[key]
                self._counters[key] = entry

    async def ping(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """Nothing to let go of."""
