"""Every metric of Headgate, in one place. Labels take only configured names and statuses: they are bounded."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

_DECISION_BUCKETS = (25e-6, 50e-6, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.5)
_STORE_BUCKETS = (5e-6, 25e-6, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_REQUEST_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        registry = self.registry
        request = ("model", "provider", "key")
        self.requests = Counter(
            "headgate_requests",
            "Requests that ended, from Envoy's access log.",
            (*request, "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "headgate_request_duration_seconds",
            "First byte of the request to last byte of the answer.",
            ("model", "provider"),
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.first_byte_seconds = Histogram(
            "headgate_time_to_first_byte_seconds",
            "First byte of the request to first byte from the provider.",
            ("model", "provider"),
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.tokens = Counter(
            "headgate_tokens", "Tokens as the provider reported them.", (*request, "type"), registry=registry
        )
        self.unmetered = Counter(
            "headgate_requests_without_usage",
            "Answered requests whose answer held no usage: charged by estimate.",
            ("model", "provider"),
            registry=registry,
        )
        self.decisions = Counter(
            "headgate_decisions",
            "Decisions of ext_proc: forward, or the status of our answer.",
            ("outcome",),
            registry=registry,
        )
        self.decision_seconds = Histogram(
            "headgate_decision_duration_seconds",
            "Time one request spent in ext_proc's Python.",
            buckets=_DECISION_BUCKETS,
            registry=registry,
        )
        self.extproc_messages = Counter(
            "headgate_extproc_messages", "Messages received by ext_proc.", registry=registry
        )
        self.limit_decisions = Counter(
            "headgate_ratelimit_decisions",
            "Limits checked, by limit and outcome.",
            ("limit", "outcome"),
            registry=registry,
        )
        self.limit_hits = Counter(
            "headgate_ratelimit_hits",
            "Hits asked of a limit, by limit and outcome.",
            ("limit", "outcome"),
            registry=registry,
        )
        self.store_seconds = Histogram(
            "headgate_store_duration_seconds",
            "Time of one decision in the counter store.",
            buckets=_STORE_BUCKETS,
            registry=registry,
        )
        self.store_errors = Counter(
            "headgate_store_errors",
            "Decisions that the store could not make.",
            ("transient",),
            registry=registry,
        )
        self.reloads = Counter(
            "headgate_config_reloads", "Configuration loads by result.", ("result",), registry=registry
        )
        self.reload_healthy = Gauge(
            "headgate_config_last_reload_successful",
            "1 if the last configuration load was taken, else 0.",
            registry=registry,
        )
        self.reload_time = Gauge(
            "headgate_config_last_success_timestamp_seconds",
            "When a configuration was last taken.",
            registry=registry,
        )

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
