"""Limits by the rate-limit service's limiter used as a library: decided here, or only settled.

With `limits.enforce: in_process` a request costs one gRPC call instead of two: it is asked about before it is
forwarded. In both topologies it is settled when Envoy's access log says what it used (unless Envoy calls for it,
`limits.settle: call`). The descriptors are those of Envoy's ratelimit filter, so all count in the same counters.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from extproc.accesslog import TOKENS as TOKENS
from extproc.accesslog import RequestRecord
from extproc.context import Exchange, MetadataValue, Reply
from extproc.providers import openai
from ratelimit.limiter import Decision, Ended, Limiter, LimitRequest
from ratelimit.presenter import Presenter
from ratelimit.rules import Descriptor, RuleSet, Settlement
from sidecar.errors import StoreError
from sidecar.waiting import Mapped

DOMAIN = "headgate"
KEY, LIMIT = "key", "limit"  # the entries of a descriptor
REQUESTS = "requests"  # what is limited, beside `TOKENS`

RESERVATION = "reservation"  # metadata: what is to be settled
SHOWN = "limits"  # metadata of the usage, for the meter: `requests 60 59 12s,tokens …` become headers of the answer
UNDECIDED = openai.error_body(  # the body of a 503, from here or from Envoy itself
    "The gateway cannot decide right now: try again.", kind="gateway_error", code="gateway_unavailable"
)
_JSON = ("content-type", "application/json")

_NOTHING: Mapping[str, MetadataValue] = {}


class Verdict(NamedTuple):
    """What the limits say: a reply that refuses, or metadata for Envoy.

    `facts` hold what is to be settled, `usage` what the meter tells the client in the answer's headers.
    """

    reply: Reply | None
    facts: Mapping[str, MetadataValue] = _NOTHING
    usage: Mapping[str, MetadataValue] = _NOTHING


_ADMITTED = Verdict(None)


def _entries(key: str, limit: str) -> tuple[tuple[str, str], ...]:
    return ((KEY, key), (LIMIT, limit))


def _asking(key: str, tokens: int) -> LimitRequest:
    descriptors = (Descriptor(_entries(key, REQUESTS), 1), Descriptor(_entries(key, TOKENS), tokens))
    return LimitRequest(DOMAIN, descriptors)


@lru_cache(maxsize=1024)
def _free(key: str) -> LimitRequest:
    return _asking(key, 0)


class Limits:
    """Asks `limiter` about requests and settles them.

    `present` says what a client sees of a refusal. `admits_on_error` is asked when the store fails: nothing else here
    decides between open and closed.
    """

    def __init__(
        self,
        limiter: Limiter,
        rules: Callable[[], RuleSet],
        present: Presenter,
        admits_on_error: Callable[[], bool],
    ) -> None:
        self._limiter = limiter
        self._rules = rules
        self._present = present
        self._admits_on_error = admits_on_error

    def ask(self, exchange: Exchange, *, free: bool = False) -> Verdict | Mapped[Verdict]:
        """May this request go on? At once when the store answers at once. A `free` one costs no tokens."""
        assert exchange.key is not None
        name = exchange.key.name
        request = _free(name) if free else _asking(name, exchange.estimate)
        try:
            decision = self._limiter.decide(self._rules(), request)
        except StoreError:
            return self._undecided()
        if isinstance(decision, Decision):
            return self._verdict(decision, free)
        there = decision.then

        def decided(done: asyncio.Future[Any]) -> Verdict:
            try:
                return self._verdict(there(done), free)
            except StoreError:
                return self._undecided()

        return Mapped(decision.future, decided)

    def _undecided(self) -> Verdict:
        if self._admits_on_error():
            return Verdict(None)
        return Verdict(Reply(503, UNDECIDED, (_JSON,)))

    def _verdict(self, decision: Decision, free: bool) -> Verdict:
        if decision.over:
            shown = self._present(decision)
            return Verdict(Reply(429, shown.body, (_JSON, *shown.headers)))
        if free:  # there is nothing to settle
            return _ADMITTED
        limited = [
            f"{status.rule.label} {status.rule.rate.amount} {status.remaining} {status.reset_seconds}s"
            for status in decision.statuses
            if status.rule is not None
        ]
        facts: dict[str, MetadataValue] = {}
        for label, settlement in decision.reservations:
            if label == TOKENS:
                facts[RESERVATION] = str(settlement)
        return Verdict(None, facts, {SHOWN: ",".join(limited)} if limited else {})

    def settle(self, records: Iterable[RequestRecord]) -> Awaitable[None] | None:
        """Replace what finished requests had reserved by what they used.

        What cannot be settled, because the store fails, stays charged as reserved.
        """
        ended = [
            Ended(_entries(record.key, TOKENS), Settlement.parse(record.reservation), record.charged)
            for record in records
            if record.reservation
        ]
        if not ended:
            return None
        try:
            waiting = self._limiter.settle(self._rules(), DOMAIN, ended)
        except StoreError:
            return None
        return None if waiting is None else _settled(waiting)


async def _settled(waiting: Awaitable[None]) -> None:
    with contextlib.suppress(StoreError):
        await waiting
