"""Single flight across processes: in each one a single request asks, and one of those leads by a lock in Redis.

The others ask again with growing pauses: the same script tells a value, a free lock (and takes it), or that another
still leads. That costs a small command per waiting process and pause, not per request; who waits in another process
learns of the value a pause late, at most `longest_pause`. A subscription would be faster, and needs a connection of
its own, a place to remember who waits, and this same asking for what it missed.

A leader renews its lock while it lives. Without Redis every process goes on its own: equal requests of one process
still share.

Weakness: for a second after an answer that could not be shared equal requests are not held back at all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Literal

from extproc.cache.flight import Flights, Leader, Outcome, Waiter
from extproc.cache.store.base import CacheStore
from extproc.cache.store.locks import ALONE, TAKEN, THERE, Locks
from extproc.cache.store.script import answer
from sidecar.errors import StoreError
from sidecar.redis.request import Command


class _Word(Enum):
    AGAIN = 0


class SharedFlights:
    """Flights of all processes that share a Redis. `store` is where their values are; `clock` is in seconds.

    The pauses (seconds) double from `first_pause` to `longest_pause`, each jittered down to as little as half.
    A leader's lock is renewed for `longest` seconds at most.
    """

    def __init__(
        self,
        store: CacheStore,
        locks: Locks,
        clock: Callable[[], float],
        *,
        longest: float = 600.0,
        first_pause: float = 0.025,
        longest_pause: float = 0.4,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._locks = locks
        self._clock = clock
        self._longest = longest
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._chance = chance
        self._flights = Flights(clock, longest=longest)

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: bytes) -> SharedWaiter:
        """Wait to lead, or for the value. Nothing is asked of Redis yet."""
        return SharedWaiter(self, self._flights.join(key))

    async def seek(self, leader: Leader, ends: float) -> Outcome:
        """Lead among all processes, or have the value of who does, until `ends` (by the clock)."""
        pause = self._first_pause
        try:
            while True:
                outcome = await self._ask(leader)
                if outcome is not _Word.AGAIN:
                    return outcome
                left = ends - self._clock()
                if left <= 0:
                    leader.fail()
                    return None
                await asyncio.sleep(min(left, pause * (0.5 + self._chance() / 2)))
                pause = min(2 * pause, self._longest_pause)
        except BaseException:
            leader.fail()
            raise

    async def _ask(self, leader: Leader) -> Outcome | Literal[_Word.AGAIN]:
        """One question; `AGAIN`: another leads. When Redis fails this process goes on its own."""
        try:
            word = await self._acquire(leader.key)
            if word == TAKEN:
                return _Word.AGAIN
            if word == ALONE:
                leader.disband()
                return None
            if word != THERE:
                leader.hold(word, _Hold(self._locks, leader.key, word, self._clock, self._longest).let_go)
                return leader
            found = self._store.get(leader.key)
            value = found if found is None or isinstance(found, bytes) else await found
        except StoreError:
            return leader
        if value is None:  # it has just ended, or cannot be opened: what this one puts replaces it
            return leader
        leader.land(value)
        return value

    async def _acquire(self, key: bytes) -> int:
        """What the lock says. Raises `StoreError`. Cancelled, it gives back the lock that it may still get."""
        request = self._locks.acquire(key)
        try:
            return int(await answer(asyncio.shield(request)))
        except asyncio.CancelledError:
            request.add_done_callback(partial(self._give_back, key))
            raise

    def _give_back(self, key: bytes, request: Command) -> None:
        if not request.cancelled() and request.exception() is None and request.result() > 0:
            self._locks.release(key, request.result())

    @property
    def clock(self) -> Callable[[], float]:
        return self._clock


class SharedWaiter:
    """Like `Waiter`, of all processes. The first of a process waits too: until it is known who leads."""

    __slots__ = ("_flights", "_local")

    def __init__(self, flights: SharedFlights, local: Leader | Waiter) -> None:
        self._flights = flights
        self._local = local

    def leave(self) -> None:
        """Want it no more. Not while it waits: cancel that."""
        if isinstance(self._local, Waiter):
            self._local.leave()
        else:
            self._local.fail()

    async def wait(self, seconds: float) -> Outcome:
        """The value, a `Leader`, or None after so many seconds: go alone. Cancelled, it leaves.

        Once, and where it is joined: a task of its own that is cancelled before it has begun never leaves.
        """
        ends = self._flights.clock() + seconds
        outcome: Outcome
        if isinstance(self._local, Waiter):
            outcome = await self._local.wait(seconds)
        else:
            outcome = self._local
        return await self._flights.seek(outcome, ends) if isinstance(outcome, Leader) else outcome


class _Hold:
    """A lock that is renewed three times in its life, until it is let go, lost, or `longest` seconds old."""

    __slots__ = ("_clock", "_ends", "_key", "_locks", "_timer", "_token")

    def __init__(self, locks: Locks, key: bytes, token: int, clock: Callable[[], float], longest: float) -> None:
        self._locks = locks
        self._key = key
        self._token = token
        self._clock = clock
        self._ends = clock() + longest
        self._timer = self._later()

    def let_go(self, alone: bool) -> None:
        """Give the lock back."""
        self._timer.cancel()
        self._locks.release(self._key, self._token, alone=alone)

    def _later(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._locks.seconds / 3, self._renew)

    def _renew(self) -> None:
        if self._clock() < self._ends:
            self._timer = self._later()
            self._locks.renew(self._key, self._token, self._lost)

    def _lost(self) -> None:
        self._timer.cancel()
