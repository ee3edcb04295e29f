"""Single flight: equal requests at the same time wait for the first.

    join     -> Leader, when nobody asks upstream for this key yet; else Waiter
    Leader   land(value): every waiter has it. fail(): the waiter that came first leads now. disband(): all go alone.
    Waiter   wait(seconds): the value, a Leader (it is this one's turn now), or None (go alone)

So a key has one leader at a time, and while anybody waits it has one. A leader whose client leaves must `fail`; a
waiter whose client leaves is cancelled, or told to `leave`. Only `Waiter.wait` needs a loop.

Join in the same step of the loop in which the store had nothing: a flight that ends in between is not seen. Where a
store has to be waited for, shared_flight.py looks again.

Weakness: an answer that cannot be shared is known only at its end; those who waited have then waited for nothing.
They go on at once by `disband`, where `fail` would have them try one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

Outcome: TypeAlias = "bytes | Leader | None"


class _Flight:
    """Those who want one key. A dictionary because waiters leave from the middle."""

    __slots__ = ("leader", "since", "waiters")

    def __init__(self, leader: Leader, since: float) -> None:
        self.leader = leader
        self.since = since
        self.waiters: dict[Waiter, None] = {}


class Flights:
    """The flights of one process. `clock` is in seconds and never goes back.

    A leader that has not ended after `longest` seconds is taken for lost: who joins next leads, and what the old one
    says is not heard any more.
    """

    def __init__(self, clock: Callable[[], float], *, longest: float = 600.0) -> None:
        self._clock = clock
        self._longest = longest
        self._flights: dict[bytes, _Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: bytes) -> Leader | Waiter:
        """Lead, or wait. Never waits itself."""
        flight = self._flights.get(key)
        if flight is None:
            leader = Leader(self, key)
            self._flights[key] = _Flight(leader, self._clock())
            return leader
        if self._clock() - flight.since > self._longest:
            return self._hand_to(flight, key)
        waiter = Waiter(self, key)
        flight.waiters[waiter] = None
        return waiter

    def _hand_to(self, flight: _Flight, key: bytes) -> Leader:
        old, flight.leader, flight.since = flight.leader, Leader(self, key), self._clock()
        old.let_go()
        return flight.leader

    def _leads(self, leader: Leader) -> bool:
        flight = self._flights.get(leader.key)
        return flight is not None and flight.leader is leader

    def _end(self, leader: Leader, value: bytes | None) -> None:
        """Everybody has it, or goes alone."""
        if self._leads(leader):
            for waiter in self._flights.pop(leader.key).waiters:
                waiter.settle(value)

    def _pass_on(self, leader: Leader) -> None:
        """The waiter that came first leads; without any the flight is over."""
        if not self._leads(leader):
            return
        flight = self._flights[leader.key]
        first = next(iter(flight.waiters), None)
        if first is None:
            del self._flights[leader.key]
            return
        del flight.waiters[first]
        first.settle(self._hand_to(flight, leader.key))

    def _leave(self, waiter: Waiter) -> None:
        flight = self._flights.get(waiter.key)
        if flight is not None:
            flight.waiters.pop(waiter, None)


class Leader:
    """Asks upstream for all who want `key`. It ends once: by `land`, `fail` or `disband`; later calls do nothing,
    so `fail` belongs into every `finally`.

    `token` goes with the value into the store: None when no other process knows of this leader. Put the value before
    it lands: the key is then free for the other processes.
    """

    __slots__ = ("_flights", "_let_go", "key", "token")

    def __init__(self, flights: Flights, key: bytes) -> None:
        self._flights = flights
        self._let_go: Callable[[bool], None] | None = None
        self.key = key
        self.token: int | None = None

    def hold(self, token: int, let_go: Callable[[bool], None]) -> None:
        """It leads among all processes too. `let_go` is called once, when it ends, with whether all are to go alone."""
        self.token = token
        self._let_go = let_go

    def let_go(self, *, alone: bool = False) -> None:
        """Lead among the processes no more. The flight itself goes on."""
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            let_go(alone)

    def land(self, value: bytes) -> None:
        """Here is the value: all who wait have it."""
        self._flights._end(self, value)
        self.let_go()

    def fail(self) -> None:
        """No value from this one; the next in line takes over."""
        self._flights._pass_on(self)
        self.let_go()

    def disband(self) -> None:
        """No value that could be shared: all who wait go alone, at once."""
        self._flights._end(self, None)
        self.let_go(alone=True)


class Waiter:
    """Waits for what becomes of a flight. `settled`: it is known, and `outcome` is it."""

    __slots__ = ("_flights", "_future", "key", "outcome", "settled")

    def __init__(self, flights: Flights, key: bytes) -> None:
        self._flights = flights
        self._future: asyncio.Future[None] | None = None
        self.key = key
        self.settled = False
        self.outcome: Outcome = None

    def settle(self, outcome: Outcome) -> None:
        """The flight's word, or the waiter's own when it has waited long enough."""
        self.settled, self.outcome = True, outcome
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def leave(self) -> None:
        """Want it no more. If it was this one's turn meanwhile, it is the next one's."""
        if not self.settled:
            self._flights._leave(self)
            self.settle(None)
        elif isinstance(self.outcome, Leader):
            self.outcome.fail()

    async def wait(self, seconds: float) -> Outcome:
        """The value, a `Leader`, or None after so many seconds: go alone. Cancelled, it leaves.

        Once, and where it is joined: a task of its own that is cancelled before it has begun never leaves.
        """
        if not self.settled:
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            timer = loop.call_later(seconds, self._give_up)
            try:
                await self._future
            except asyncio.CancelledError:
                self.leave()
                raise
            finally:
                timer.cancel()
        return self.outcome

    def _give_up(self) -> None:
        if not self.settled:
            self.leave()
