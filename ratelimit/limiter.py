"""The limiter: rules, an algorithm and a store make one decision. No protobuf, no gRPC: also a library.

A request's descriptors are decided together. With the embedded store the decision is there at once; with
Redis it is awaited.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from ratelimit.algorithms.fixed_window import TTL_SLACK, counter_key, seconds_until_reset, window_start
from ratelimit.errors import RequestError
from ratelimit.rules import MAX_HITS, Descriptor, Entries, Match, Mode, Rate, Rule, RuleSet, Settlement
from ratelimit.storage.base import Action, Count, Operation, Store
from sidecar.errors import StoreError

UNLIMITED_REMAINING = 0xFFFFFFFF


class LimitRequest(NamedTuple):
    """One question: may these descriptors take `hits_addend` hits each (unless they name their own)?"""

    domain: str
    descriptors: tuple[Descriptor, ...]
    hits_addend: int = 0


class Status(NamedTuple):
    """The verdict for one descriptor. `rule` is None when no limit counts for it.

    `remaining` is what the window still has, `reset_seconds` how long until the next one, `hits` what was
    asked for. A reserve that is not over may stand in a denied decision: then it has counted nothing.
    """

    rule: Rule | None
    over: bool
    remaining: int
    reset_seconds: int
    hits: int

    @property
    def rate(self) -> Rate | None:
        """The limit, None when there is none."""
        return None if self.rule is None or self.rule.unlimited else self.rule.rate


class Decision(NamedTuple):
    """The verdict for a request: over when any status is.

    `reservations` hold, by label, what was reserved and waits to be settled; none when the call is denied.
    """

    over: bool
    statuses: tuple[Status, ...]
    reservations: tuple[tuple[str, Settlement], ...] = ()


class Ended(NamedTuple):
    """A call that is over: the entries of its limit, what it had reserved, and what it used."""

    entries: Entries
    reserved: Settlement
    used: int


class Observer(Protocol):
    """Told about decisions. Labels come from rules, so there are only so many."""

    def decided(self, label: str, over: bool, hits: int) -> None:
        """One limit was checked with so many hits."""

    def store_seconds(self, seconds: float) -> None:
        """The store answered a decision after so many seconds."""

    def store_failed(self, transient: bool) -> None:
        """The store could not decide."""


class Unobserved:
    """An observer that looks away."""

    def decided(self, label: str, over: bool, hits: int) -> None:
        """Nothing."""

    def store_seconds(self, seconds: float) -> None:
        """Nothing."""

    def store_failed(self, transient: bool) -> None:
        """Nothing."""


class _Planned(NamedTuple):
    """A matched descriptor, and the place of its operation (None when the store is not asked)."""

    match: Match | None
    hits: int
    operation: int | None


class Limiter:
    """Decides requests over one store.

    `clock` gives unix seconds and is read once per request; `timer` (seconds, any origin) times the store.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        observer: Observer | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer or Unobserved()
        self._timer = timer

    def decide(self, rules: RuleSet | None, request: LimitRequest) -> Decision | Awaitable[Decision]:
        """Decide, and count: at once when the store answers at once, else as an awaitable.

        Raises `RequestError` for a question without sense or without rules. `StoreError` from the store is
        passed on, raised here or by the awaitable: whether that opens or closes is not decided here.
        """
        if not request.domain:
            raise RequestError("rate limit domain must not be empty")
        if not request.descriptors:
            raise RequestError("rate limit descriptor list must not be empty")
        if rules is None:
            raise RequestError("no rate limit configuration loaded")
        now = self._clock()
        planned, operations = _plan(rules, request, int(now))
        if not operations:
            return self._decision(planned, (), int(now))
        started = self._timer()
        try:
            counts = self._store.apply(operations, now)
        except StoreError as error:
            self._observer.store_failed(error.transient)
            raise
        if isinstance(counts, Sequence):
            self._observer.store_seconds(self._timer() - started)
            return self._decision(planned, counts, int(now))
        return self._later(planned, counts, int(now), started)

    async def _later(
        self, planned: list[_Planned], waiting: Awaitable[Sequence[Count]], now: int, started: float
    ) -> Decision:
        try:
            counts = await waiting
        except StoreError as error:
            self._observer.store_failed(error.transient)
            raise
        self._observer.store_seconds(self._timer() - started)
        return self._decision(planned, counts, now)

    def settle(self, rules: RuleSet, domain: str, calls: Iterable[Ended]) -> Awaitable[None] | None:
        """Settle many calls together: what several of them owe one counter is one operation.

        At once when the store answers at once. Raises `StoreError`, or the awaitable does; the calls then stay charged
        as reserved. Says the same as a settling descriptor per call.
        """
        now = self._clock()
        owed: dict[str, list[int]] = {}
        for call in calls:
            match = rules.match(domain, Descriptor(call.entries))
            if match is None or match.rule.mode is not Mode.RESERVE:
                continue
            operation = _operation(match._replace(settlement=call.reserved), min(call.used, MAX_HITS), int(now))
            sums = owed.setdefault(operation.key, [0, operation.ttl])
            sums[0] += operation.hits
        operations = [Operation(key, Action.ADJUST, hits, 0, ttl) for key, (hits, ttl) in owed.items() if hits]
        if not operations:
            return None
        try:
            counts = self._store.apply(operations, now)
        except StoreError as error:
            self._observer.store_failed(error.transient)
            raise
        return None if isinstance(counts, Sequence) else self._settled(counts)

    async def _settled(self, waiting: Awaitable[Sequence[Count]]) -> None:
        try:
            await waiting
        except StoreError as error:
            self._observer.store_failed(error.transient)
            raise

    def _decision(self, planned: list[_Planned], counts: Sequence[Count], now: int) -> Decision:
        statuses = tuple([_status(one, counts, now) for one in planned])
        over = False
        reservations: list[tuple[str, Settlement]] = []
        for one, status in zip(planned, statuses, strict=True):
            over = over or status.over
            if one.operation is None or one.match is None or one.match.settlement is not None:
                continue
            label = one.match.rule.label
            self._observer.decided(label, status.over, status.hits)
            if one.match.rule.mode is Mode.RESERVE:
                reservations.append((label, Settlement(one.hits, now)))
        return Decision(over, statuses, () if over else tuple(reservations))


def _plan(rules: RuleSet, request: LimitRequest, now: int) -> tuple[list[_Planned], list[Operation]]:
    """What each descriptor means, and the store's part of it."""
    planned: list[_Planned] = []
    operations: list[Operation] = []
    for descriptor in request.descriptors:
        hits = descriptor.hits if descriptor.hits is not None else request.hits_addend or 1
        if not 0 <= hits <= MAX_HITS:
            hits = max(0, min(hits, MAX_HITS))
        match = rules.match(request.domain, descriptor)
        if match is None or match.rule.unlimited:
            planned.append(_Planned(match, hits, None))
            continue
        planned.append(_Planned(match, hits, len(operations)))
        operations.append(_operation(match, hits, now))
    return planned, operations


def _operation(match: Match, hits: int, now: int) -> Operation:
    rule = match.rule
    start = window_start(now, rule.rate.unit)
    key = counter_key(match.counter, start)
    ttl = seconds_until_reset(now, rule.rate.unit) + TTL_SLACK
    if match.settlement is not None:
        difference = hits - match.settlement.reserved
        if window_start(match.settlement.at, rule.rate.unit) != start:
            # The window that was charged is not this one: only what was used beyond it is still owed here.
            difference = max(0, difference)
        return Operation(key, Action.ADJUST, difference, 0, ttl)
    action = Action.RESERVE if rule.mode is Mode.RESERVE else Action.ADD
    return Operation(key, action, hits, rule.rate.amount, ttl)


def _status(planned: _Planned, counts: Sequence[Count], now: int) -> Status:
    match = planned.match
    if match is None:
        return Status(None, over=False, remaining=0, reset_seconds=0, hits=planned.hits)
    if planned.operation is None:
        return Status(match.rule, over=False, remaining=UNLIMITED_REMAINING, reset_seconds=0, hits=planned.hits)
    value, over = counts[planned.operation]
    rate = match.rule.rate
    remaining = rate.amount - value
    # By position: a decision makes several, and naming the fields doubles what one costs.
    return Status(
        match.rule, over, remaining if remaining > 0 else 0, seconds_until_reset(now, rate.unit), planned.hits
    )
