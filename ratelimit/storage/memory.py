"""The embedded store: counters of one process. Exact within it, gone with it, never larger than its bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ratelimit.algorithms.base import SECOND, Counter, microseconds, seconds_up
from ratelimit.algorithms.fixed_window import TTL_SLACK
from ratelimit.algorithms.gcra import Gcra
from ratelimit.algorithms.sliding_log import KEEPER, Log, SlidingLog, empty
from ratelimit.algorithms.sliding_window import SlidingWindow
from ratelimit.algorithms.token_bucket import TokenBucket
from ratelimit.rules import Algorithm
from ratelimit.storage.base import MAX_COUNT, Action, Count, Operation, are_shaped
from ratelimit.storage.expiries import Expiries

_BITS = 34  # of an expiry in unix seconds
_EXPIRY = (1 << _BITS) - 1
_GONE = 1  # a counter that expired in 1970: deleted, and still noted
_WORDS = 16  # of a log that weigh as much as a counter

_Shaped: TypeAlias = SlidingWindow | TokenBucket | Gcra | SlidingLog

# Enums and named tuples by their short way: a decision is a few hundred nanoseconds of Python.
_RESERVE, _STOP, _WATCH, _ADJUST = Action.RESERVE, Action.STOP, Action.WATCH, Action.ADJUST
_tuple = tuple.__new__


class MemoryStore:
    """Counters in a dict, each one number: its value or its algorithm's state, and its expiry. Logs are apart.

    Every key is noted once with the second it expires in. Every decision looks at a few keys that are due, more than
    it can have added, in constant time each: what has expired goes, what has been prolonged is noted again. At
    `max_counters` the counter that would expire first goes (give or take a 64th of its life), which forgives what it
    had counted: size the bound above the number of live counters. Eight entries of a sliding log weigh a counter.
    """

    def __init__(self, max_counters: int = 1_000_000) -> None:
        self._max = max_counters
        self._counters: dict[str, int] = {}
        self._logs: dict[str, Log] = {}
        self._words = 0  # of all logs
        self._expiries = Expiries()
        self._seconds = self._expiries.seconds
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._counters) + len(self._logs)

    def apply(self, operations: Sequence[Operation], now: float) -> list[Count]:
        """Apply one decision, in one step. Never waits, never fails."""
        second = int(now)
        if len(operations) == 1 and operations[0].shape is None:
            counts = [self._one(operations[0], second)]
        elif are_shaped(operations):
            counts = self._decide(operations, second, microseconds(now))
        else:
            counts = self._windows(operations, second)
        if self._seconds and self._seconds[0] <= second:
            self._sweep(second, 2 * len(operations) + 8)
        return counts

    async def forget(self, keys: Sequence[str]) -> None:
        """Delete counters, as if nothing had been counted. Their place is free when they are due."""
        for key in keys:
            if key in self._counters:
                self._counters[key] = _GONE
            elif key in self._logs:
                self._words -= len(self._logs[key])
                self._logs[key] = log = empty()
                self._words += len(log)

    async def ping(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """Nothing to let go of."""

    # fixed windows

    def _one(self, operation: Operation, second: int) -> Count:
        """A decision of one fixed window, by the shortest way."""
        key, action, hits, limit, ttl, _, _, _ = operation
        packed = self._counters.get(key, 0)
        value = packed >> _BITS if packed & _EXPIRY > second else 0
        over = value + hits > limit and action is not _ADJUST
        if hits and not (over and action is _RESERVE):
            value = self._add(key, packed, hits, second, ttl)
        return _tuple(Count, (value, over, 0))

    def _windows(self, operations: Sequence[Operation], second: int) -> list[Count]:
        """Fixed windows alone."""
        found = self._counters.get
        asked: dict[str, int] = {}
        overs: list[bool] = []
        denied = False
        for key, action, hits, limit, _, _, _, _ in operations:
            over = False
            if action is not _ADJUST:
                packed = found(key, 0)
                asked[key] = wanted = asked.get(key, 0) + hits
                over = (packed >> _BITS if packed & _EXPIRY > second else 0) + wanted > limit
                if over and action is not _WATCH:
                    denied = True
            overs.append(over)
        counts: list[Count] = []
        for (key, action, hits, _, ttl, _, _, _), over in zip(operations, overs, strict=True):
            packed = found(key, 0)
            value = packed >> _BITS if packed & _EXPIRY > second else 0
            if hits and not (denied and (action is _RESERVE or (action is _STOP and not over))):
                value = self._add(key, packed, hits, second, ttl)
            counts.append(_tuple(Count, (value, over, 0)))
        return counts

    def _add(self, key: str, packed: int, hits: int, second: int, ttl: int) -> int:
        """The new value of a fixed window. A counter lives for the ttl of the operation that made it."""
        before, expiry = packed >> _BITS, packed & _EXPIRY
        if expiry <= second:
            before, expiry = 0, second + ttl
        value = before + hits
        if value < 0:
            value = 0
        elif value > MAX_COUNT:
            value = MAX_COUNT
        if value != before:
            if not packed:
                self._announce(key, expiry, second)
            self._counters[key] = value << _BITS | expiry
        return value

    def _value(self, key: str, second: int) -> int:
        packed = self._counters.get(key, 0)
        return packed >> _BITS if packed & _EXPIRY > second else 0

    # every other algorithm, and decisions that mix them

    def _decide(self, operations: Sequence[Operation], second: int, time: int) -> list[Count]:
        """Look at every counter, then commit."""
        asked: dict[str, int] = {}
        looks: list[tuple[_Shaped | None, bool, int]] = []  # is it over, and for how long
        denied = False
        for operation in operations:
            counter = self._look(operation, time, second)
            over, wait = False, 0
            if operation.action is not _ADJUST:
                earlier = asked.get(operation.key, 0)
                wanted = earlier + operation.hits
                if counter is None:
                    over = self._value(operation.key, second) + wanted > operation.limit
                elif counter.in_use + wanted > counter.capacity:
                    over, wait, wanted = True, _wait(operation, counter, wanted), earlier
                asked[operation.key] = wanted
                denied = denied or (over and operation.action is not _WATCH)
            looks.append((counter, over, wait))
        counts = []
        changed: dict[str, _Shaped] = {}
        for operation, (counter, over, wait) in zip(operations, looks, strict=True):
            key, action, hits, _, ttl, _, _, _ = operation
            counted = hits and not (denied and (action is _RESERVE or (action is _STOP and not over)))
            if counter is None:
                packed = self._counters.get(key, 0)
                value = self._add(key, packed, hits, second, ttl) if counted else self._value(key, second)
                counts.append(Count(value, over))
                continue
            counter = changed.get(key, counter)
            if counted and not over:
                changed[key] = counter = self._change(counter, operation, second)
            counts.append(Count(counter.in_use, over, seconds_up(wait if over else counter.until_free)))
        return counts

    def _look(self, operation: Operation, time: int, second: int) -> _Shaped | None:
        """The operation's counter; None of a fixed window."""
        key, _, _, limit, _, shape, _, _ = operation
        if shape is None:
            return None
        period, algorithm = shape.period * SECOND, shape.algorithm
        if algorithm is Algorithm.SLIDING_LOG:
            log = self._logs.get(key)
            if log is None or log[KEEPER] <= second:
                return SlidingLog.look(None, time, limit, period)
            self._words -= len(log)
            counter = SlidingLog.look(log, time, limit, period)
            self._words += len(log)
            return counter
        packed = self._counters.get(key, 0)
        stored = packed >> _BITS if packed & _EXPIRY > second else None
        if algorithm is Algorithm.SLIDING_WINDOW:
            return SlidingWindow.look(stored, time, limit, period)
        if algorithm is Algorithm.TOKEN_BUCKET:
            return TokenBucket.look(stored, time, limit, period, shape.burst)
        return Gcra.look(stored, time, limit, period, shape.burst)

    def _change(self, counter: _Shaped, operation: Operation, second: int) -> _Shaped:
        """Count the operation's hits, and keep the counter until it is free."""
        key, action, hits, *_ = operation
        log = self._logs.get(key) if isinstance(counter, SlidingLog) else None
        self._words -= len(log or ())
        counter = counter.correct(hits, operation.at * SECOND) if action is _ADJUST else counter.add(hits)
        expiry = seconds_up(counter.now + counter.until_free) + TTL_SLACK
        if not isinstance(counter, SlidingLog):
            if key not in self._counters:
                self._announce(key, expiry, second)
            self._counters[key] = counter.pack() << _BITS | expiry
            return counter
        counter.log[KEEPER] = expiry
        if log is None:
            self._announce(key, expiry, second)
        self._logs[key] = counter.log
        self._words += len(counter.log)
        self._make_room(0, second)
        return counter

    # bounds

    def _announce(self, key: str, expiry: int, second: int) -> None:
        """A counter that was not there before: it is noted, and there is room for it."""
        self._make_room(1, second)
        self._expiries.note(key, expiry, second)

    def _make_room(self, more: int, second: int) -> None:
        while self._seconds and len(self) + more + self._words // _WORDS > self._max:
            self.evicted += self._drop(second, living=True)

    def _sweep(self, second: int, most: int) -> None:
        for _ in range(most):
            if not self._seconds or self._seconds[0] > second:
                return
            self._drop(second, living=False)

    def _drop(self, second: int, *, living: bool) -> bool:
        """Whether the counter that was noted first went. It is noted again when it has been prolonged since."""
        key, due = self._expiries.pop()
        log = self._logs.get(key)
        expiry = self._counters[key] & _EXPIRY if log is None else log[KEEPER]
        if expiry > due or (expiry > second and not living):
            self._expiries.note(key, expiry, second)
            return False
        if log is None:
            del self._counters[key]
        else:
            self._words -= len(log)
            del self._logs[key]
        return True


def _wait(operation: Operation, counter: Counter, hits: int) -> int:
    """How long until so many hits fit. What never fits waits for the longest time that it may take."""
    if hits <= counter.capacity:
        return counter.until_fits(hits)
    assert operation.shape is not None
    return max(operation.shape.period * SECOND, counter.until_free)
