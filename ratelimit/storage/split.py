"""Two stores in one: the counters of one-second windows, which come and go, may have a store of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

from ratelimit.storage.across import Share, decide
from ratelimit.storage.base import Count, Operation, Store


class SplitStore:
    """Operations that are `per_second` go to the second store, all others to the first one.

    A decision that needs both asks both at the same time, and gives back in one what the other denies: what that means
    is said in ratelimit/storage/across.py. It fails when either fails, after both have had their say.
    """

    def __init__(self, main: Store, per_second: Store) -> None:
        self._main = main
        self._per_second = per_second

    def apply(self, operations: Sequence[Operation], now: float) -> list[Count] | Awaitable[Sequence[Count]]:
        """Apply one decision. Raises `StoreError`, or the awaitable does."""
        fast = [operation.per_second for operation in operations]
        if True not in fast:
            return self._main.apply(operations, now)
        if False not in fast:
            return self._per_second.apply(operations, now)
        return decide(operations, now, _place, lambda shares: self._run(shares, now))

    async def _run(self, shares: Sequence[Share], now: float) -> Mapping[int, Count]:
        answers = await asyncio.gather(*(self._ask(share, now) for share in shares), return_exceptions=True)
        counts: dict[int, Count] = {}
        for share, answer in zip(shares, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            counts.update(zip(share, answer, strict=True))
        return counts

    async def _ask(self, share: Share, now: float) -> Sequence[Count]:
        operations = tuple(share.values())
        store = self._per_second if operations[0].per_second else self._main
        answer = store.apply(operations, now)
        return answer if isinstance(answer, list) else await answer

    async def forget(self, keys: Sequence[str]) -> None:
        """Delete counters, wherever they are. Raises `StoreError`; some may then be deleted."""
        await asyncio.gather(self._main.forget(keys), self._per_second.forget(keys))

    async def ping(self) -> None:
        """Raise `StoreError` when either store does not answer."""
        await asyncio.gather(self._main.ping(), self._per_second.ping())

    async def close(self) -> None:
        """Close both."""
        await asyncio.gather(self._main.close(), self._per_second.close())


def _place(operation: Operation) -> bool:
    return operation.per_second
