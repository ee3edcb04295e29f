"""The metrics of the service, by the names and labels of envoyproxy/ratelimit's Prometheus exporter.

A limit's key (`mesh.tenant_team-a.path`) is split at its dots: the first part is the label `domain`, the second `key1`,
the third `key2`; limits that differ only further down share a series. `:` and `|` become `_`, and so do the dots of an
IPv4 address.

Keys may hold what requests say (`detailed_metric`, `value_to_metric`), so they are bounded: no more than so many
series, none with a long name. Whatever is beyond is counted in one series of its domain, whose `key1` is `other`.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import structlog

from ratelimit.http.exposition import family
from ratelimit.rules import Limit
from sidecar.errors import StoreError
from sidecar.series import Counter, Family, Gauge, Histogram, Labels, SeriesT

_log = structlog.get_logger("ratelimit")
_QUIET_SECONDS = 10.0  # between two lines about a store that keeps failing

MOST_KEYS = 10_000
MOST_DOMAINS = 1_000
LONGEST_KEY = 512
OTHER = "other"

_PREFIX = "ratelimit_service"
_KEYS = ("domain", "key1", "key2")
# envoyproxy/ratelimit's buckets, and finer ones below the first of them.
_SECONDS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ADDRESS = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", re.ASCII)
_float = struct.Struct("<f")


def near_threshold(amount: int, ratio: float) -> int:
    """Where "near the limit" begins: `amount * ratio`, rounded down, in the single precision that dashboards know."""
    return int(_single(_single(amount) * _single(ratio)))


def _single(value: float) -> float:
    return float(_float.unpack(_float.pack(value))[0])


def key_labels(stat: str) -> Labels:
    """The labels of a limit's key: domain, key1 and (empty when there is none) key2."""
    clean = _ADDRESS.sub(lambda found: found.group().replace(".", "_"), stat.replace(":", "_").replace("|", "_"))
    domain, _, rest = clean.partition(".")
    key1, _, rest = rest.partition(".")
    return (domain, key1, rest.partition(".")[0])


class _Hits:
    """The counters of one key. Each is made when it is first needed: what never happened is not shown."""

    __slots__ = ("_counters", "_families", "_labels", "total", "within")

    def __init__(self, families: dict[str, Family[Counter]], labels: Labels) -> None:
        self._families = families
        self._labels = labels
        self._counters: dict[str, Counter] = {}
        self.total: Counter | None = None  # at hand, because every decision counts in it
        self.within: Counter | None = None

    def add(self, what: str, hits: int) -> None:
        """Count `hits` of this kind."""
        if hits <= 0:
            return
        counter = self._counters.get(what)
        if counter is None:
            counter = self._counters[what] = self._families[what].labels(*self._labels)
            self.total, self.within = self._counters.get("total_hits"), self._counters.get("within_limit")
        counter.value += hits


class Stats:
    """Everything that the service counts. For one thread, that of the event loop.

    Also the limiter's observer. Memory is bounded whatever requests hold.
    """

    def __init__(self, near_ratio: float = 0.8, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at = -_QUIET_SECONDS
        self._near_ratio = near_ratio
        self._near: dict[int, int] = {}
        self._families: list[Family[Any]] = []
        self._hits = {
            name: self._counter(f"rate_limit_{name}", text, *_KEYS)
            for name, text in (
                ("total_hits", "Hits asked of a limit."),
                ("over_limit", "Hits beyond the limit."),
                ("near_limit", "Hits near the limit, but within."),
                ("within_limit", "Hits of calls within the limit."),
                ("shadow_mode", "Hits beyond a limit that only looks on."),
                ("over_limit_with_local_cache", "Hits beyond the limit, known without asking the store."),
                ("without_store", "Calls that the limit's failure policy decided: the store did not answer."),
            )
        }
        self._not_found = self._counter("rate_limit_domain_not_found", "Calls of a domain without rules.", "domain")
        self._global_shadow = self._counter("global_shadow_mode", "Calls over a limit, let through by SHADOW_MODE.")
        self._errors = self._counter("should_rate_limit_error", "Calls that could not be decided.", "err_type")
        self._loads = {
            True: self._counter("config_load_success", "Rules that were taken.").labels(),
            False: self._counter("config_load_error", "Rules that were refused.").labels(),
        }
        self._requests = self._counter("total_requests", "gRPC calls.", "grpc_method")
        self._response_seconds: Family[Histogram] = self._added(
            Family(
                "histogram",
                f"{_PREFIX}_response_time_seconds",
                "Time that a gRPC call took.",
                ("grpc_method",),
                lambda: Histogram(_SECONDS),
            )
        )
        self._store_seconds: Family[Histogram] = self._added(
            Family(
                "histogram",
                f"{_PREFIX}_store_seconds",
                "Time of a decision in the store.",
                (),
                lambda: Histogram(_SECONDS),
            )
        )
        self._store_time = self._store_seconds.labels()
        self._store_errors = self._counter("store_error", "Decisions that the store did not make.", "transient")
        self._connections = self._gauge("ratelimit_redis_pool_cx_active", "Connections to Redis.")
        self._left_alone = self._gauge(
            f"{_PREFIX}_store_left_alone", "Stores that are not asked for the moment: they failed again and again."
        )
        self._overflowed = self._counter("metric_keys_overflow", "Hits counted under `other`: too many keys.").labels()
        self._by_stat: dict[str, _Hits] = {}
        self._by_labels: dict[Labels, _Hits] = {}
        self._others: dict[str, _Hits] = {}  # by domain
        self._unknown: set[str] = set()  # domains without rules

    def _counter(self, name: str, text: str, *labels: str) -> Family[Counter]:
        return self._added(Family("counter", f"{_PREFIX}_{name}", text, labels, Counter))

    def _gauge(self, name: str, text: str) -> Gauge:
        return self._added(Family("gauge", name, text, (), Gauge)).labels()

    def _added(self, made: Family[SeriesT]) -> Family[SeriesT]:
        self._families.append(made)
        return made

    # the limiter's observer

    def decided(self, limit: Limit, hits: int, count: int, over: bool, local: bool) -> None:
        """One limit was checked: `count` is its counter after `hits` more, `local` an answer without the store."""
        if hits <= 0:
            return
        series = self._by_stat.get(limit.stat)
        if series is None:
            series = self._series(limit.stat)
        amount = limit.rule.rate.amount
        near = self._near.get(amount)
        if near is None:
            near = self._threshold(amount)
        total, within = series.total, series.within
        if total is None:
            series.add("total_hits", hits)
        else:
            total.value += hits
        if not over:
            if count > near:
                series.add("near_limit", min(hits, count - near))
            if within is None:
                series.add("within_limit", hits)
            else:
                within.value += hits
            return
        # Hits before the limit was reached are near it; a call that counted nothing is beyond it as a whole.
        beyond = min(hits, count - amount) if not local and count > amount else hits
        series.add("over_limit", beyond)
        if local:
            series.add("over_limit_with_local_cache", hits)
        elif beyond < hits:
            series.add("near_limit", amount - max(near, count - hits))
        if limit.rule.shadow:
            series.add("shadow_mode", beyond)

    def degraded(self, limit: Limit) -> None:
        """The store did not answer, and the limit's failure policy decided."""
        (self._by_stat.get(limit.stat) or self._series(limit.stat)).add("without_store", 1)

    def domain_not_found(self, domain: str) -> None:
        """A call's domain has no rules."""
        if domain not in self._unknown:
            if len(domain) > LONGEST_KEY or len(self._unknown) >= MOST_DOMAINS:
                domain = OTHER
            self._unknown.add(domain)
        self._not_found.labels(domain).inc()

    def overruled(self) -> None:
        """A call was over, and passed because SHADOW_MODE is on."""
        self._global_shadow.labels().inc()

    def store_seconds(self, seconds: float) -> None:
        """The store answered after so many seconds."""
        self._store_time.observe(seconds)

    def store_failed(self, error: StoreError) -> None:
        """The store did not decide."""
        self._store_errors.labels("true" if error.transient else "false").inc()
        now = self._clock()
        if now - self._told_at >= _QUIET_SECONDS:
            self._told_at = now
            _log.error("store_failed", reason=str(error), transient=error.transient)

    # the service

    def failed(self, kind: str) -> None:
        """A call could not be decided: `redis_error` or `service_error`."""
        self._errors.labels(kind).inc()

    def calls(self, method: str) -> tuple[Counter, Histogram]:
        """Where the calls of a gRPC method are counted, and their time."""
        return self._requests.labels(method), self._response_seconds.labels(method)

    def loaded(self, *, taken: bool) -> None:
        """Rules have come."""
        self._loads[taken].inc()

    def stores(self, *, connections: int, left_alone: int) -> None:
        """So many Redis servers are connected, and so many stores are not asked for the moment."""
        self._connections.set(connections)
        self._left_alone.set(left_alone)

    def lines(self) -> Iterator[str]:
        """Every metric in Prometheus' text format, a line or a few at a time."""
        for one in self._families:
            bounds = _SECONDS if one.kind == "histogram" else ()
            yield from family(one.kind, one.name, one.text, one.label_names, bounds, one.rows())

    def _threshold(self, amount: int) -> int:
        if len(self._near) >= MOST_KEYS:  # a request may bring its own limit
            self._near.clear()
        near = self._near[amount] = near_threshold(amount, self._near_ratio)
        return near

    def _series(self, stat: str) -> _Hits:
        """The counters of a key that was not met lately."""
        labels = key_labels(stat) if len(stat) <= LONGEST_KEY else None
        series = None if labels is None else self._by_labels.get(labels)
        if series is None:
            if labels is None or len(self._by_labels) >= MOST_KEYS:
                self._overflowed.inc()
                return self._other(stat)
            series = self._by_labels[labels] = _Hits(self._hits, labels)
        if len(self._by_stat) >= MOST_KEYS:  # of keys that differ further down than labels go
            self._by_stat.clear()
        self._by_stat[stat] = series
        return series

    def _other(self, stat: str) -> _Hits:
        """Where keys are counted that have no series of their own: one for each domain, which are configured names."""
        domain = stat.partition(".")[0]
        if domain not in self._others and (len(domain) > LONGEST_KEY or len(self._others) >= MOST_DOMAINS):
            domain = ""
        series = self._others.get(domain)
        if series is None:
            series = self._others[domain] = _Hits(self._hits, (domain, OTHER, ""))
        return series
