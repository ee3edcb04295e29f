"""What an operator may do to counters by hand: look at them, give hits back, start them anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ratelimit.decision import LimitRequest
from ratelimit.options import Options
from ratelimit.plan import Planner
from ratelimit.rules import Descriptor, Entries, Limit, RuleSet
from ratelimit.storage.base import Action, Operation, Store
from ratelimit.verdict import status


class Counter(NamedTuple):
    """The state of one limit's counter: hits in use, and in how many seconds they are free again."""

    limit: Limit
    key: str
    used: int
    remaining: int
    reset_seconds: int


class Operator:
    """Works on the counters of one store. Raises `StoreError`; a descriptor without limits has no counters."""

    def __init__(self, store: Store, clock: Callable[[], float], options: Options | None = None) -> None:
        self._store = store
        self._clock = clock
        # Looking must not be answered from a memory, and counts nothing.
        given = options or Options()
        self._planner = Planner(Options(key_prefix=given.key_prefix), lambda: 0.0)

    async def inspect(self, rules: RuleSet, domain: str, entries: Entries) -> list[Counter]:
        """The counters that a request with this descriptor would count in now."""
        # A watch of 0 hits changes nothing, whatever the rule's own way of counting.
        return await self._apply(rules, domain, Descriptor(entries, 0), lambda one: one._replace(action=Action.WATCH))

    async def credit(self, rules: RuleSet, domain: str, entries: Entries, hits: int) -> list[Counter]:
        """Give hits back, never below nothing in use; the counters after it."""
        return await self._apply(rules, domain, Descriptor(entries, -hits), lambda one: one)

    async def charge(self, rules: RuleSet, domain: str, entries: Entries, hits: int) -> list[Counter]:
        """Count hits that were used already, whatever the limit; the counters after it."""
        if not hits:
            return await self.inspect(rules, domain, entries)
        return await self._apply(rules, domain, Descriptor(entries, -hits), lambda one: one._replace(hits=-one.hits))

    async def reset(self, rules: RuleSet, domain: str, entries: Entries) -> list[Counter]:
        """Forget the counters; what they were."""
        before = await self.inspect(rules, domain, entries)
        if before:
            await self._store.forget([counter.key for counter in before])
        return before

    async def _apply(
        self, rules: RuleSet, domain: str, descriptor: Descriptor, change: Callable[[Operation], Operation]
    ) -> list[Counter]:
        now = self._clock()
        plan = self._planner.plan(rules, LimitRequest(domain, (descriptor,)), int(now))
        if not plan.operations:
            return []
        answer = self._store.apply([change(one) for one in plan.operations], now)
        counts = answer if isinstance(answer, list) else await answer
        found: list[Counter] = []
        for one in plan.limits:
            if one.operation is None:
                continue
            count = counts[one.operation]
            seen = status(one.limit, count, one.hits, int(now))
            key = plan.operations[one.operation].key
            found.append(Counter(one.limit, key, count.value, seen.remaining, seen.reset_seconds))
        return found
