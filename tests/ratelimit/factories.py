"""Values that tests start from."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from ratelimit.limiter import Decision, Limiter, LimitRequest
from ratelimit.rules import Descriptor, Mode, Node, Rate, Rule, RuleSet, Unit

NOON = 1_700_000_040  # the start of a minute
T = TypeVar("T")


class Clock:
    """Unix seconds that move only when told to."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def settled(answer: T | Awaitable[T]) -> T:
    """The answer, from a store that gives it at once and from one that does not."""
    return await answer if inspect.isawaitable(answer) else answer


def reserve(amount: int, label: str = "tokens", unit: Unit = Unit.MINUTE) -> Rule:
    return Rule(Rate(amount, unit), Mode.RESERVE, label=label)


def consume(amount: int, label: str = "calls", unit: Unit = Unit.MINUTE) -> Rule:
    return Rule(Rate(amount, unit), Mode.CONSUME, label=label)


def tenant_rules(domain: str, *, requests: int = 100, tokens: int = 1000) -> RuleSet:
    """Headgate's own shape: `key`, then `limit`; and `ip`, which consumes, as envoyproxy/ratelimit has it."""
    limits = (Node("limit", "requests", reserve(requests, "requests")), Node("limit", "tokens", reserve(tokens)))
    return RuleSet({domain: (Node("key", None, None, limits), Node("ip", None, consume(2, "ip")))})


def tokens(hits: int, tenant: str = "team-a") -> Descriptor:
    return Descriptor((("key", tenant), ("limit", "tokens")), hits)


def requests(hits: int = 1, tenant: str = "team-a") -> Descriptor:
    return Descriptor((("key", tenant), ("limit", "requests")), hits)


def settle(reservation: str, hits: int, tenant: str = "team-a") -> Descriptor:
    return Descriptor((("key", tenant), ("limit", "tokens"), ("settle", reservation)), hits)


def caller(address: str = "192.0.2.1", hits: int | None = None) -> Descriptor:
    return Descriptor((("ip", address),), hits)


class House:
    """A limiter with rules and a domain: one line asks, one line tells what is left."""

    def __init__(self, limiter: Limiter, rules: RuleSet, domain: str) -> None:
        self.limiter = limiter
        self.rules = rules
        self.domain = domain

    async def ask(self, *descriptors: Descriptor, hits_addend: int = 0) -> Decision:
        request = LimitRequest(self.domain, descriptors, hits_addend)
        return await settled(self.limiter.decide(self.rules, request))

    async def left(self, *descriptors: Descriptor) -> Sequence[int]:
        """What remains for each descriptor, counting nothing."""
        checks = [Descriptor(one.entries, 0) for one in descriptors]
        return [(await self.ask(check)).statuses[0].remaining for check in checks]
