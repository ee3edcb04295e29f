"""What the services report, as metrics and log lines. Labels are taken only from configured names."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
import structlog

from extproc.accesslog import RequestRecord
from extproc.cache.question import Question
from headgate.settings import Settings
from ratelimit.limiter import Unobserved
from ratelimit.rules import Limit
from sidecar.errors import StoreError
from sidecar.logs import timestamp, write_lines
from sidecar.metrics import Metrics
from sidecar.series import Counter

_log = structlog.get_logger("headgate")
_QUIET_SECONDS = 10.0  # between two lines about a store that keeps failing


class _Series:
    """The metrics of one model, provider, key and status, looked up once."""

    __slots__ = ("_cached", "_completion", "_first_byte", "_prompt", "_requests", "_seconds", "_total", "_unmetered")

    def __init__(self, metrics: Metrics, model: str, provider: str, key: str, status: str) -> None:
        self._requests = metrics.requests.labels(model, provider, key, status)
        self._seconds = metrics.request_seconds.labels(model, provider)
        self._first_byte = metrics.first_byte_seconds.labels(model, provider)
        self._total = metrics.tokens.labels(model, provider, key, "total")
        self._prompt = metrics.tokens.labels(model, provider, key, "prompt")
        self._completion = metrics.tokens.labels(model, provider, key, "completion")
        self._cached = metrics.tokens.labels(model, provider, key, "cached")
        answered = provider != "none" and int(status) < 400
        self._unmetered = metrics.unmetered.labels(model, provider) if answered else None

    def count(self, record: RequestRecord) -> None:
        self._requests.inc()
        self._seconds.observe(record.seconds)
        if record.first_byte_seconds is not None:
            self._first_byte.observe(record.first_byte_seconds)
        if record.total_tokens is None:
            if self._unmetered is not None:
                self._unmetered.inc()
            return
        self._total.inc(record.total_tokens)
        self._prompt.inc(record.prompt_tokens or 0)
        self._completion.inc(record.completion_tokens or 0)
        self._cached.inc(record.cached_tokens or 0)


class Reporter(Unobserved):
    """Observes ext_proc, the limiter and Envoy's access log."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        log_requests: bool,
        settings: Callable[[], Settings],
        forwarded: Callable[[str], None],
    ) -> None:
        self._metrics = metrics
        self.forwarded = forwarded
        self._log_requests = log_requests
        self._settings = settings
        self._forwarded = metrics.decisions.labels("forward")
        self._series: dict[tuple[str, str, str, int], _Series] = {}
        self._store_failed_at = -_QUIET_SECONDS
        self._semantic_failed_at = -_QUIET_SECONDS
        self._limits: dict[tuple[str, bool], tuple[Counter, Counter]] = {}
        self._names_of: Settings | None = None  # whose keys are named in `_keys`
        self._keys: frozenset[str] = frozenset()

    # ext_proc (extproc.server.Observer)

    def decided_request(self, outcome: str, seconds: float) -> None:
        """A request was decided."""
        if outcome == "forward":
            self._forwarded.inc()
        else:
            self._metrics.decisions.labels(outcome).inc()
        self._metrics.decision_seconds.observe(seconds)

    def message(self) -> None:
        """A message of an ext_proc stream arrived."""
        self._metrics.extproc_messages.value += 1

    # rate limit (ratelimit.limiter.Observer)

    def decided(self, limit: Limit, hits: int, count: int, over: bool, local: bool) -> None:
        """A limit was checked."""
        label = limit.rule.label
        counters = self._limits.get((label, over))
        if counters is None:
            names = (label, "over" if over else "ok")
            counters = (self._metrics.limit_decisions.labels(*names), self._metrics.limit_hits.labels(*names))
            self._limits[label, over] = counters
        counters[0].value += 1
        counters[1].value += hits

    def store_seconds(self, seconds: float) -> None:
        """The store answered."""
        self._metrics.store_seconds.observe(seconds)

    def store_failed(self, error: StoreError) -> None:
        """The store did not answer."""
        self._metrics.store_errors.labels(str(error.transient).lower()).inc()
        now = time.monotonic()
        if now - self._store_failed_at > _QUIET_SECONDS:
            self._store_failed_at = now
            _log.error(
                "store_failed",
                reason=str(error),
                transient=error.transient,
                requests_are=self._settings().limits.on_error,
            )

    # the cache (extproc.cache.cache.Observer)

    def looked_up(self, question: Question, result: str, reason: str) -> None:
        """A kept answer was looked for."""
        self._metrics.cache_requests.labels(question.key.model, result, reason).inc()

    def saved(self, model: str, tokens: int, cost: float | None) -> None:
        """A client was given a kept answer."""
        self._metrics.cache_tokens.labels(model).inc(tokens)
        if cost is not None:
            self._metrics.cache_cost.labels(model).inc(cost)

    def kept(self, question: Question, size: int) -> None:
        """An answer was kept."""
        self._metrics.cache_answers.labels(question.key.model, "kept").inc()
        self._metrics.cache_bytes.labels(question.key.model).inc(size)

    def not_kept(self, question: Question, reason: str) -> None:
        """An answer was not kept."""
        self._metrics.cache_answers.labels(question.key.model, reason).inc()

    def cache_failed(self, error: StoreError) -> None:
        """The cache's store did not answer."""
        self._metrics.cache_errors.labels(str(error.transient).lower()).inc()

    # the semantic cache (extproc.semantic.cache.Observer)

    def semantic_asked(self, model: str, result: str, reason: str, seconds: float) -> None:
        """A question was asked by meaning."""
        self._metrics.semantic_lookups.labels(model, result, reason).inc()
        self._metrics.semantic_seconds.labels(model).observe(seconds)

    def semantic_saved(self, model: str, tokens: int, cost: float | None) -> None:
        """A client was given such an answer."""
        self._metrics.semantic_saved.labels(model).inc(tokens)
        if cost is not None:
            self._metrics.semantic_cost.labels(model).inc(cost)

    def semantic_failed(self, error: Exception) -> None:
        """There was no vector, or no search."""
        part = "vectors" if isinstance(error, StoreError) else "embeddings"
        self._metrics.semantic_errors.labels(part).inc()
        now = time.monotonic()
        if now - self._semantic_failed_at > _QUIET_SECONDS:
            self._semantic_failed_at = now
            _log.warning("semantic_cache_failed", part=part, reason=str(error))

    def embedded(self, model: str, tokens: int) -> None:
        """A vector was made."""
        self._metrics.semantic_spent.labels(model).inc(tokens)

    # access log

    def finished(self, records: Sequence[RequestRecord]) -> None:
        """Requests have ended."""
        settings = self._settings()
        if settings is not self._names_of:
            self._names_of, self._keys = settings, frozenset(one.name for one in settings.keys)
        keys = self._keys
        for record in records:
            model = record.model if record.model in settings.models else "none"
            provider = record.provider if record.provider in settings.providers else "none"
            key = record.key if record.key in keys else "none"
            labels = (model, provider, key, record.status)
            series = self._series.get(labels)
            if series is None:
                # Names are configured and statuses are few, so this does not grow for ever.
                series = self._series[labels] = _Series(self._metrics, model, provider, key, str(record.status))
            series.count(record)
            overhead = record.overhead_seconds
            if overhead is not None:
                self._metrics.overhead_seconds.observe(overhead)
        if self._log_requests:
            now = timestamp()
            write_lines([_line(record, now) for record in records])


class _Line(msgspec.Struct):
    """What the log says of one request. No prompt, no answer, no key."""

    request_id: str
    method: str
    path: str
    status: int
    key: str | None
    model: str | None
    provider: str | None
    target_model: str | None
    tokens: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    estimate: int | None
    total_ms: float | None
    upstream_ms: float | None
    first_byte_ms: float | None
    overhead_us: int | None
    disconnected: bool | None
    flags: str | None
    event: str
    level: str
    timestamp: str


def _line(record: RequestRecord, timestamp: str) -> _Line:
    overhead = record.overhead_seconds
    return _Line(
        record.request_id,
        record.method,
        record.path[:256],
        record.status,
        record.key or None,
        record.model or None,
        record.provider or None,
        record.target_model or None,
        record.total_tokens,
        record.prompt_tokens,
        record.completion_tokens,
        record.cached_tokens,
        record.estimate,
        _milliseconds(record.seconds),
        _milliseconds(record.upstream_seconds),
        _milliseconds(record.first_byte_seconds),
        None if overhead is None else round(overhead * 1e6),
        record.disconnected or None,
        ",".join(record.flags) or None,
        "request",
        "info",
        timestamp,
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
