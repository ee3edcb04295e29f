"""The limiter: rules, their algorithms and a store make one decision. No protobuf, no gRPC: also a library.

A request's descriptors are decided together. With the embedded store the decision is there at once; with
Redis it is awaited. What becomes of an operation before it reaches the store is `ratelimit.plan`'s: the local cache and
leases may answer it. What a rule means without a store is `ratelimit.fallback`'s.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from ratelimit.decision import Decision, Ended, LimitRequest, Status
from ratelimit.errors import RequestError
from ratelimit.fallback import Fallback
from ratelimit.options import Options
from ratelimit.plan import Plan, Planner, believed, reserve, settling
from ratelimit.rules import MAX_HITS, Descriptor, Limit, Mode, RuleSet, Settlement
from ratelimit.storage.base import Count, Operation, Store
from ratelimit.verdict import UNLIMITED_REMAINING, by_descriptor, status
from sidecar.errors import StoreError
from sidecar.waiting import Mapped, unstoppable

__all__ = ["UNLIMITED_REMAINING", "Decision", "Ended", "LimitRequest", "Limiter", "Observer", "Status", "Unobserved"]

_RESERVE = Mode.RESERVE
_tuple = tuple.__new__  # a named tuple by its short way


class Observer(Protocol):
    """Told about decisions. `limit.stat` may hold values of requests: it must bound itself what it keeps of them."""

    def decided(self, limit: Limit, hits: int, count: int, over: bool, local: bool) -> None:
        """One limit was checked with so many hits; its counter is `count` now.

        `over` is also true of a shadow rule that would have denied. `local`: the local cache knew that it is over.
        """

    def degraded(self, limit: Limit) -> None:
        """The store did not answer, and the rule's failure policy decided."""

    def domain_not_found(self, domain: str) -> None:
        """A descriptor's domain has no rules: told once for each descriptor of a request."""

    def overruled(self) -> None:
        """A call was over, and passed because all limits are in the shadow (`Options.shadow`)."""

    def store_seconds(self, seconds: float) -> None:
        """The store answered a decision after so many seconds. Of one that answers at once nothing is told."""

    def store_failed(self, error: StoreError) -> None:
        """The store could not decide."""


class Unobserved:
    """An observer that looks away."""

    def decided(self, limit: Limit, hits: int, count: int, over: bool, local: bool) -> None:
        """Nothing."""

    def degraded(self, limit: Limit) -> None:
        """Nothing."""

    def domain_not_found(self, domain: str) -> None:
        """Nothing."""

    def overruled(self) -> None:
        """Nothing."""

    def store_seconds(self, seconds: float) -> None:
        """Nothing."""

    def store_failed(self, error: StoreError) -> None:
        """Nothing."""


class Limiter:
    """Decides requests over one store.

    `clock` gives unix seconds and is read once per request; `timer` (seconds, any origin) times the store; `dice` gives
    numbers from 0 up to 1, for the spread of expiry.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        observer: Observer | None = None,
        timer: Callable[[], float] = time.perf_counter,
        options: Options | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer or Unobserved()
        self._timer = timer
        self._options = options or Options()
        self._planner = Planner(self._options, dice)
        self._fallback = Fallback(self._options)

    @property
    def saved(self) -> int:
        """Decisions on single limits that a lease answered without the store."""
        return self._planner.leases.saved

    def decide(self, rules: RuleSet | None, request: LimitRequest) -> Decision | Mapped[Decision]:
        """Decide, and count: at once when the store answers at once, else as an awaitable.

        Raises `RequestError` for a question without sense or without rules. A `StoreError` is passed on, raised here or
        by the awaitable, when a rule that it concerns has no failure policy of its own.
        """
        if not request.domain:
            raise RequestError("rate limit domain must not be empty")
        if not request.descriptors:
            raise RequestError("rate limit descriptor list must not be empty")
        if rules is None:
            raise RequestError("no rate limit configuration loaded")
        if request.domain not in rules.domains:
            for _ in request.descriptors:
                self._observer.domain_not_found(request.domain)
        now = self._clock()
        plan = self._planner.plan(rules, request, int(now))
        if not plan.operations:
            return self._decision(plan, (), int(now))
        try:
            counts = self._store.apply(plan.operations, now)
            if isinstance(counts, list) and plan.leased:
                again = self._planner.without_leases(plan, counts)
                if again is not None:
                    second = self._store.apply(again.operations, now)
                    assert isinstance(second, list)
                    counts = again.merged(counts, second)
        except StoreError as error:
            return self._without_store(plan, now, error)
        if isinstance(counts, list):
            return self._decision(plan, counts, int(now))
        started = self._timer()
        if plan.leased:
            # What the store grants is kept for the next ones, also when this one's caller has given up.
            return Mapped(unstoppable(self._leased(plan, counts, now, started)), asyncio.Future.result)
        waiting = counts if isinstance(counts, asyncio.Future) else asyncio.ensure_future(counts)
        return Mapped(waiting, lambda done: self._counted(plan, done, now, started))

    def _counted(self, plan: Plan, done: asyncio.Future[Sequence[Count]], now: float, started: float) -> Decision:
        """The store has answered, or failed."""
        try:
            counts = done.result()
        except StoreError as error:
            return self._without_store(plan, now, error)
        self._observer.store_seconds(self._timer() - started)
        return self._decision(plan, counts, int(now))

    async def _leased(self, plan: Plan, waiting: Awaitable[Sequence[Count]], now: float, started: float) -> Decision:
        try:
            counts = await waiting
            again = self._planner.without_leases(plan, counts)
            if again is not None:
                second = self._store.apply(again.operations, now)
                counts = again.merged(counts, second if isinstance(second, list) else await second)
        except StoreError as error:
            return self._without_store(plan, now, error)
        self._observer.store_seconds(self._timer() - started)
        return self._decision(plan, counts, int(now))

    def _without_store(self, plan: Plan, now: float, error: StoreError) -> Decision:
        """The store failed: every rule's own policy, or the error."""
        self._observer.store_failed(error)
        if plan.leased:
            self._planner.end_leases(plan, None, int(now), over=False)
            plan.leased = False
        counts = self._fallback.counts(plan, now)
        if counts is None:
            raise error
        for one in plan.limits:
            if one.operation is not None:
                self._observer.degraded(one.limit)
        return self._decision(plan, counts, int(now), stored=False)

    def settle(self, rules: RuleSet, domain: str, calls: Iterable[Ended]) -> Awaitable[None] | None:
        """Settle many calls together: what several of them owe one counter is one operation.

        At once when the store answers at once. Raises `StoreError`, or the awaitable does; the calls then stay charged
        as reserved. Says the same as a settling descriptor per call.
        """
        now = self._clock()
        owed: dict[tuple[str, int], Operation] = {}
        for call in calls:
            match = rules.match(domain, Descriptor(call.entries))
            if match is None:
                continue
            for limit in match.limits:
                if limit.rule.mode is not Mode.RESERVE or limit.rule.unlimited:
                    continue
                reserved = believed(limit.rule, call.reserved, int(now))
                one = settling(limit, reserved, min(call.used, MAX_HITS), int(now), self._options.key_prefix)
                place = (one.key, one.at if one.shape is not None else 0)
                before = owed.get(place)
                owed[place] = one if before is None else before._replace(hits=before.hits + one.hits)
        operations = [one for one in owed.values() if one.hits]
        if not operations:
            return None
        try:
            counts = self._store.apply(operations, now)
        except StoreError as error:
            self._observer.store_failed(error)
            raise
        return None if isinstance(counts, list) else self._settled(counts)

    async def _settled(self, waiting: Awaitable[Sequence[Count]]) -> None:
        try:
            await waiting
        except StoreError as error:
            self._observer.store_failed(error)
            raise

    def _decision(self, plan: Plan, counts: Sequence[Count], now: int, *, stored: bool = True) -> Decision:
        if plan.plain:
            answers, reservations = self._plainly(plan, counts), plan.reserved
        else:
            answers, reservations = self._one_by_one(plan, counts, now, stored)
        over = False
        for answer in answers:
            if answer[1]:
                over = True
        statuses = tuple(answers) if plan.single else by_descriptor(plan, answers)
        if over and (plan.quota or self._options.quota):
            over = self._over(statuses)
        if plan.leased:
            self._planner.end_leases(plan, counts, now, over=over and not self._options.shadow)
        if over and self._options.shadow:
            self._observer.overruled()
            over = False
        return _tuple(Decision, (over, statuses, () if over or not stored else reservations))

    def _plainly(self, plan: Plan, counts: Sequence[Count]) -> list[Status]:
        """As `_one_by_one` would do, of limits about which nothing is special; nearly every decision comes this way."""
        decided = self._observer.decided
        answers: list[Status] = []
        for (limit, hits, _, _, _, _, _, reset), (value, over, _) in zip(plan.limits, counts, strict=True):
            rule = limit.rule
            decided(limit, hits, value, over, False)
            remaining = rule.rate.amount - value
            if over and rule.shadow:
                over, remaining = False, 0
            answers.append(_tuple(Status, (rule, over, remaining if remaining > 0 else 0, reset, hits)))
        return answers

    def _one_by_one(
        self, plan: Plan, counts: Sequence[Count], now: int, stored: bool
    ) -> tuple[list[Status], tuple[tuple[str, Settlement], ...]]:
        """The verdict of every limit, and what was reserved."""
        decided = self._observer.decided
        answers: list[Status] = []
        reservations: list[tuple[str, Settlement]] = []
        seen = self._planner.without_held(plan, counts) if plan.leased else counts
        for limit, hits, place, known, local, _, settles, _ in plan.limits:
            count = known if place is None else seen[place]
            answers.append(status(limit, count, hits, now))
            if count is None or settles:
                continue
            decided(limit, hits, count.value, count.over, local)
            if limit.rule.mode is _RESERVE:
                reserve(reservations, limit.rule, hits, now)
            elif count.over and stored and not local:
                self._planner.remember(limit, now)
        return answers, tuple(reservations)

    def _over(self, answers: Sequence[Status]) -> bool:
        """Whether the call is denied: by any rule that is no quota, or by every quota together."""
        quotas, quotas_over = 0, 0
        for answer in answers:
            rule = answer.rule
            if rule is not None and (rule.quota or self._options.quota) and not rule.unlimited:
                quotas += 1
                quotas_over += answer.over
            elif answer.over:
                return True
        return quotas > 0 and quotas == quotas_over
