"""The RateLimitQuotaService (envoy.service.rate_limit_quota.v3): one stream per Envoy, reports in, assignments out.

Envoy asks nobody while a request waits: it reports from time to time what it let through, and is answered with what it
may do until it is told otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import structlog
from envoy.service.rate_limit_quota.v3 import rlqs_pb2
from envoy.type.v3.ratelimit_strategy_pb2 import RateLimitStrategy

from ratelimit.operator import Operator
from ratelimit.quota.buckets import Assignment, Demand, assign, find, share
from ratelimit.rules import MAX_HITS, RuleSet
from sidecar.errors import RpcError, StatusCode, StoreError
from sidecar.rpc import DONE, CallContext, Service, Step, StreamMethod

SERVICE = "envoy.service.rate_limit_quota.v3.RateLimitQuotaService"
_MOST_BUCKETS = 100_000  # of one Envoy
_log = structlog.get_logger("quota")

_Bucket: TypeAlias = tuple[tuple[str, str], ...]  # keys and values, in the order of the keys
_Place: TypeAlias = tuple[str, _Bucket]


class Demands:
    """What every Envoy asks of every bucket."""

    def __init__(self) -> None:
        self._by_bucket: dict[_Place, dict[object, Demand]] = {}

    def __len__(self) -> int:
        return len(self._by_bucket)

    def report(self, place: _Place, envoy: object, requests: int, seconds: float) -> float:
        """Take a report; the share of the bucket that this Envoy should have."""
        demands = self._by_bucket.setdefault(place, {})
        mine = demands.setdefault(envoy, Demand())
        mine.report(requests, seconds)
        return share(mine.rate, [one.rate for one in demands.values()])

    def leave(self, place: _Place, envoy: object) -> None:
        """The Envoy is gone."""
        demands = self._by_bucket.get(place)
        if demands is not None:
            demands.pop(envoy, None)
            if not demands:
                del self._by_bucket[place]


class _Stream:
    """One Envoy: the domain that its first report names, and what it was last told of each bucket, and when."""

    def __init__(
        self,
        operator: Operator,
        rules: Callable[[], RuleSet | None],
        demands: Demands,
        clock: Callable[[], float],
    ) -> None:
        self._operator = operator
        self._rules = rules
        self._demands = demands
        self._clock = clock
        self._domain = ""
        self._told: dict[_Bucket, tuple[Assignment, float]] = {}
        self._buckets: set[_Bucket] = set()
        self._ruled: RuleSet | None = None

    async def on_message(self, message: Any) -> Step:
        """A `RateLimitQuotaUsageReports`. A store that fails leaves in force what was told before."""
        self._domain = self._domain or message.domain
        if not self._domain:
            raise RpcError(StatusCode.INVALID_ARGUMENT, "rate limit domain must not be empty")
        rules = self._rules()
        if rules is None:
            raise RpcError(StatusCode.UNAVAILABLE, "no rate limit configuration loaded")
        if rules is not self._ruled:
            self._told.clear()  # other rules: everything is told anew
            self._ruled = rules
        reply = rlqs_pb2.RateLimitQuotaResponse()
        usages = []
        for usage in message.bucket_quota_usages:
            bucket = _bucket(usage.bucket_id.bucket)
            if bucket not in self._buckets and len(self._buckets) >= _MOST_BUCKETS:
                abandoned = reply.bucket_action.add()
                abandoned.bucket_id.CopyFrom(usage.bucket_id)
                abandoned.abandon_action.SetInParent()
                continue
            self._buckets.add(bucket)
            usages.append((bucket, usage))
        try:
            assignments = await asyncio.gather(*(self._assignment(rules, *one) for one in usages))
        except StoreError as error:
            _log.warning("quota_store_failed", transient=error.transient)
            return Step()
        now = self._clock()
        for (bucket, usage), assignment in zip(usages, assignments, strict=True):
            before, told_at = self._told.get(bucket, (None, 0.0))
            if before is not None and not assignment.replaces(before) and now - told_at < before.ttl / 2:
                continue
            self._told[bucket] = (assignment, now)
            action = reply.bucket_action.add()
            action.bucket_id.CopyFrom(usage.bucket_id)
            _write(assignment, action.quota_assignment_action)
        return Step((reply,)) if reply.bucket_action else Step()

    async def _assignment(self, rules: RuleSet, bucket: _Bucket, usage: Any) -> Assignment:
        elapsed = usage.time_elapsed.seconds + usage.time_elapsed.nanos / 1e9
        used = min(usage.num_requests_allowed, MAX_HITS)
        part = self._demands.report((self._domain, bucket), self, used + usage.num_requests_denied, elapsed)
        entries = find(rules, self._domain, dict(bucket))
        if entries is None:
            return assign((), part)
        return assign(await self._operator.charge(rules, self._domain, entries, used), part)

    def on_end(self) -> Step:
        """Envoy reports no more."""
        return DONE

    def on_close(self) -> None:
        """The shares of this Envoy are free."""
        for bucket in self._buckets:
            self._demands.leave((self._domain, bucket), self)


def _bucket(bucket: Mapping[str, str]) -> _Bucket:
    return tuple(sorted(bucket.items()))


def _write(assignment: Assignment, action: Any) -> None:
    """Fill a `QuotaAssignmentAction`."""
    action.assignment_time_to_live.seconds = assignment.ttl
    strategy = action.rate_limit_strategy
    if assignment.tokens is None:
        strategy.blanket_rule = RateLimitStrategy.ALLOW_ALL
    elif assignment.tokens == 0:
        strategy.blanket_rule = RateLimitStrategy.DENY_ALL
    else:
        strategy.token_bucket.max_tokens = min(assignment.tokens, 0xFFFFFFFF)
        strategy.token_bucket.tokens_per_fill.value = min(assignment.tokens, 0xFFFFFFFF)
        strategy.token_bucket.fill_interval.seconds = assignment.fill_seconds


def quota_service(
    operator: Operator, rules: Callable[[], RuleSet | None], clock: Callable[[], float] = time.monotonic
) -> Service:
    """The service over the counters of `operator`; `rules` gives the rule set of the moment, `clock` seconds."""
    demands = Demands()

    def open_stream(_context: CallContext) -> _Stream:
        return _Stream(operator, rules, demands, clock)

    reports = rlqs_pb2.RateLimitQuotaUsageReports
    return Service(SERVICE, (StreamMethod("StreamRateLimitQuotas", reports, open_stream, lasting=True),))
