"""What the services report, as metrics and log lines. Labels are taken only from configured names."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from extproc.accesslog import RequestRecord
from headgate.settings import Settings
from sidecar.metrics import Metrics

_log = structlog.get_logger("request")


class Reporter:
    """Observes ext_proc, the limiter and Envoy's access log."""

    def __init__(self, metrics: Metrics, *, log_requests: bool, settings: Callable[[], Settings]) -> None:
        self._metrics = metrics
        self._log_requests = log_requests
        self._settings = settings
        self._forwarded = metrics.decisions.labels("forward")

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
        self._metrics.extproc_messages.inc()

    # rate limit (ratelimit.limiter.Observer)

    def decided(self, label: str, over: bool, hits: int) -> None:
        """A limit was checked."""
        outcome = "over" if over else "ok"
        self._metrics.limit_decisions.labels(label, outcome).inc()
        self._metrics.limit_hits.labels(label, outcome).inc(hits)

    def store_seconds(self, seconds: float) -> None:
        """The store answered."""
        self._metrics.store_seconds.observe(seconds)

    def store_failed(self, transient: bool) -> None:
        """The store did not answer."""
        self._metrics.store_errors.labels(str(transient).lower()).inc()

    # access log

    def finished(self, record: RequestRecord) -> None:
        """A request has ended."""
        settings = self._settings()
        model = record.model if record.model in settings.models else "none"
        provider = record.provider if record.provider in settings.providers else "none"
        key = record.key if any(one.name == record.key for one in settings.keys) else "none"
        metrics = self._metrics
        metrics.requests.labels(model, provider, key, str(record.status)).inc()
        metrics.request_seconds.labels(model, provider).observe(record.seconds)
        if record.first_byte_seconds is not None:
            metrics.first_byte_seconds.labels(model, provider).observe(record.first_byte_seconds)
        for kind, tokens in (
            ("total", record.total_tokens),
            ("prompt", record.prompt_tokens),
            ("completion", record.completion_tokens),
            ("cached", record.cached_tokens),
        ):
            if tokens is not None:
                metrics.tokens.labels(model, provider, key, kind).inc(tokens)
        if provider != "none" and record.status < 400 and record.total_tokens is None:
            metrics.unmetered.labels(model, provider).inc()
        if self._log_requests:
            self._write(record)

    def _write(self, record: RequestRecord) -> None:
        _log.info(
            "request",
            request_id=record.request_id,
            method=record.method,
            path=record.path[:256],
            status=record.status,
            key=record.key or None,
            model=record.model or None,
            provider=record.provider or None,
            target_model=record.target_model or None,
            tokens=record.total_tokens,
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            cached_tokens=record.cached_tokens,
            estimate=record.estimate,
            total_ms=_milliseconds(record.seconds),
            upstream_ms=_milliseconds(record.upstream_seconds),
            first_byte_ms=_milliseconds(record.first_byte_seconds),
            decision_ms=_milliseconds(record.decision_seconds),
            disconnected=record.disconnected or None,
            flags=",".join(record.flags) or None,
        )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
