"""A circuit breaker: a store that fails again and again is left alone for a while, and nobody waits for it.

Closed, it passes everything on. After so many transient failures in a row it is open and refuses at once, until the
cooldown is over; then it is half open, and exactly one decision is let through as a probe. If the store answers that
(a mistake that no retry mends is an answer too) the breaker is closed, else it is open for another cooldown.
The pattern is Michael Nygard's ("Release It!", 2007).

Weakness: a decision whose caller gives up before the store fails says nothing about the store, so callers with less
patience than the store's own timeout keep the breaker closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias

from ratelimit.storage.base import Count, Operation, Store
from sidecar.errors import StoreError

State: TypeAlias = Literal["closed", "open", "half_open"]


class Breaker:
    """A store around a store. `clock` gives seconds that never go backward, of any origin.

    `opened` counts how often the store was given up; a probe that fails does not count again. `since` is when the
    breaker was last opened or closed, whatever probes there were in between. Only decisions count and are refused.
    """

    def __init__(self, store: Store, clock: Callable[[], float], *, failures: int = 5, cooldown: float = 1.0) -> None:
        self._store = store
        self._clock = clock
        self._most = failures
        self._cooldown = cooldown
        self._failures = 0  # in a row, while closed
        self._next_probe = 0.0
        self._turn = 0  # what was asked in another turn says nothing in this one
        self._told = partial(self._done, 0)
        self.state: State = "closed"
        self.opened = 0
        self.since = clock()

    def apply(self, operations: Sequence[Operation], now: float) -> list[Count] | Awaitable[Sequence[Count]]:
        """Apply one decision, or refuse it with a transient `StoreError`: nothing was counted then."""
        if self.state != "closed":
            self._probe_or_refuse()
        turn = self._turn
        try:
            answer = self._store.apply(operations, now)
        except BaseException as error:
            self._heard(turn, error)
            raise
        if isinstance(answer, list):
            self._heard(turn, None)
            return answer
        waiting = answer if isinstance(answer, asyncio.Future) else asyncio.ensure_future(answer)
        if waiting.done():
            self._done(turn, waiting)
        else:
            waiting.add_done_callback(self._told)
        return waiting

    def _done(self, turn: int, answer: asyncio.Future[Sequence[Count]]) -> None:
        self._heard(turn, asyncio.CancelledError() if answer.cancelled() else answer.exception())

    def _probe_or_refuse(self) -> None:
        """Let one decision through when it is time. A probe that is never heard of is given up after a cooldown."""
        now = self._clock()
        if now < self._next_probe:
            raise StoreError(f"the store is left alone after {self._most} failures in a row", transient=True)
        self._next_probe = now + self._cooldown
        self._enter("half_open")

    def _heard(self, turn: int, error: BaseException | None) -> None:
        """A decision has ended."""
        if turn != self._turn:
            return
        if error is None or (isinstance(error, StoreError) and not error.transient):
            self._failures = 0
            if self.state == "half_open":
                self.since = self._clock()
                self._enter("closed")
        elif not isinstance(error, StoreError):
            if self.state == "half_open":  # given up by its caller: another one may probe at once
                self._next_probe = self._clock()
                self._enter("open")
        elif self.state == "half_open":
            self._next_probe = self._clock() + self._cooldown
            self._enter("open")
        else:
            self._failures += 1
            if self._failures >= self._most:
                self._failures = 0
                self.opened += 1
                self.since = self._clock()
                self._next_probe = self.since + self._cooldown
                self._enter("open")

    def _enter(self, state: State) -> None:
        self.state = state
        self._turn += 1
        self._told = partial(self._done, self._turn)

    async def forget(self, keys: Sequence[str]) -> None:
        """Delete counters. Raises `StoreError`."""
        await self._store.forget(keys)

    async def ping(self) -> None:
        """Raise `StoreError` when the store does not answer: it is asked, whatever the state."""
        await self._store.ping()

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()
