"""Every metric of Headgate, in one place. Labels take only configured names and statuses: they are bounded."""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sidecar.series import Counter, Family, Gauge, Histogram, Row, exposed, merge

_DECISION_BUCKETS = (25e-6, 50e-6, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.5)
_STORE_BUCKETS = (5e-6, 25e-6, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_REQUEST_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

Together: TypeAlias = Callable[[float, float], float]
Snapshot: TypeAlias = Mapping[str, Sequence[Row]]  # a worker's series, by metric


class Metrics:
    """The metrics of one process. Everything is counted by the thread that also shows it."""

    def __init__(self, worker: int = 0) -> None:
        self._worker = str(worker)
        self._families: list[Family[Any]] = []
        self._bounds: dict[str, Sequence[float]] = {}
        request = ("model", "provider", "key")
        self.requests = self._counter(
            "headgate_requests", "Requests that ended, from Envoy's access log.", *request, "status"
        )
        self.request_seconds = self._histogram(
            "headgate_request_duration_seconds",
            "First byte of the request to last byte of the answer.",
            _REQUEST_BUCKETS,
            "model",
            "provider",
        )
        self.first_byte_seconds = self._histogram(
            "headgate_time_to_first_byte_seconds",
            "First byte of the request to first byte from the provider.",
            _REQUEST_BUCKETS,
            "model",
            "provider",
        )
        self.overhead_seconds = self._histogram(
            "headgate_overhead_seconds",
            "Our own time per request: every decision about it, in Python.",
            _DECISION_BUCKETS,
        ).labels()
        self.tokens = self._counter("headgate_tokens", "Tokens as the provider reported them.", *request, "type")
        self.unmetered = self._counter(
            "headgate_requests_without_usage",
            "Answered requests whose answer held no usage: charged by estimate.",
            "model",
            "provider",
        )
        target = ("provider", "target_model")
        self.attempts = self._counter(
            "headgate_attempts", "Attempts at targets, by how they ended: ok, or why not.", *target, "reason"
        )
        self.target_available = self._gauge(
            "headgate_target_available", "1 if a target may be tried first, else 0.", *target, "target"
        )
        self.target_seconds_left = self._gauge(
            "headgate_target_seconds_left",
            "Until a target that is left out is tried again.",
            *target,
            "target",
            together=max,
        )
        self.target_in_flight = self._gauge(
            "headgate_target_in_flight", "Requests on their way to a target.", *target, "target", together=operator.add
        )
        self.cache_requests = self._counter(
            "headgate_cache_requests", "Requests that a kept answer was looked for.", "model", "result", "reason"
        )
        self.cache_answers = self._counter(
            "headgate_cache_answers", "Answers that were to be kept: kept, or why not.", "model", "outcome"
        )
        self.cache_bytes = self._counter("headgate_cache_kept_bytes", "Bytes of answers that were kept.", "model")
        self.cache_tokens = self._counter("headgate_cache_saved_tokens", "Tokens of answers from the cache.", "model")
        self.cache_cost = self._counter(
            "headgate_cache_saved_cost",
            "What answers from the cache cost when they were made, by targets[].cost and in its currency.",
            "model",
        )
        self.cache_errors = self._counter("headgate_cache_errors", "Times that its store failed.", "transient")
        self.semantic_lookups = self._counter(
            "headgate_semantic_lookups", "Questions that were asked by meaning.", "model", "result", "reason"
        )
        self.semantic_seconds = self._histogram(
            "headgate_semantic_lookup_seconds",
            "Time of such a question, its vector included.",
            _REQUEST_BUCKETS,
            "model",
        )
        self.semantic_saved = self._counter(
            "headgate_semantic_saved_tokens", "Tokens of answers that were found by meaning.", "model"
        )
        self.semantic_cost = self._counter(
            "headgate_semantic_saved_cost", "What those answers had cost, where prices are known.", "model"
        )
        self.semantic_spent = self._counter(
            "headgate_semantic_embedding_tokens", "Tokens of texts that vectors were made of.", "model"
        )
        self.semantic_errors = self._counter(
            "headgate_semantic_errors", "Times that there was no vector, or that Redis' search failed.", "part"
        )
        self.decisions = self._counter(
            "headgate_decisions", "Decisions of ext_proc: forward, or the status of our answer.", "outcome"
        )
        self.decision_seconds = self._histogram(
            "headgate_decision_duration_seconds", "Time one request spent in ext_proc's Python.", _DECISION_BUCKETS
        ).labels()
        self.extproc_messages = self._counter("headgate_extproc_messages", "Messages received by ext_proc.").labels()
        self.limit_decisions = self._counter(
            "headgate_ratelimit_decisions", "Limits checked, by limit and outcome.", "limit", "outcome"
        )
        self.limit_hits = self._counter(
            "headgate_ratelimit_hits", "Hits asked of a limit, by limit and outcome.", "limit", "outcome"
        )
        self.store_seconds = self._histogram(
            "headgate_store_duration_seconds", "Time of one decision in a store that is not embedded.", _STORE_BUCKETS
        ).labels()
        self.store_errors = self._counter(
            "headgate_store_errors", "Decisions that the store could not make.", "transient"
        )
        self.reloads = self._counter("headgate_config_reloads", "Configuration loads by result.", "result")
        self.reload_healthy = self._gauge(
            "headgate_config_last_reload_successful", "1 if the last configuration load was taken, else 0."
        ).labels()
        self.reload_time = self._gauge(
            "headgate_config_last_success_timestamp_seconds", "When a configuration was last taken."
        ).labels()
        self._worker_decisions = self._counter(
            "headgate_worker_decisions", "Decisions of ext_proc by worker: Envoy splits them evenly.", "worker"
        ).labels(self._worker)
        self._worker_cpu = self._counter(
            "headgate_worker_cpu_seconds", "User and system CPU time of a worker.", "worker"
        ).labels(self._worker)
        self._worker_memory = self._gauge(
            "headgate_worker_resident_memory_bytes", "Resident memory of a worker.", "worker"
        ).labels(self._worker)

    def _counter(self, name: str, text: str, *labels: str) -> Family[Counter]:
        return self._add(Family("counter", name, text, labels, Counter))

    def _gauge(self, name: str, text: str, *labels: str, together: Together = min) -> Family[Gauge]:
        """Of several workers the smallest value is shown, that of who is worst off, unless said otherwise."""
        return self._add(Family("gauge", name, text, labels, Gauge, together))

    def _histogram(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> Family[Histogram]:
        self._bounds[name] = bounds
        return self._add(Family("histogram", name, text, labels, lambda: Histogram(bounds)))

    def _add(self, family: Family[Any]) -> Family[Any]:
        self._families.append(family)
        return family

    def snapshot(self) -> Snapshot:
        """Every series, as plain data that another worker can merge."""
        self._worker_decisions.value = sum(values[0] for _, values in self.decisions.rows())
        self._worker_cpu.value = time.process_time()
        self._worker_memory.set(_resident_bytes())
        return {family.name: family.rows() for family in self._families}

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return self.merged_exposition([self.snapshot()])

    def merged_exposition(self, snapshots: Sequence[Snapshot]) -> bytes:
        """The series of several workers as one, in Prometheus' text format: added up.

        Gauges say themselves what they are together. What is said of the process and the platform is of the process
        that is asked.
        """
        registry = CollectorRegistry()
        registry.register(_Families(self._merged(snapshots)))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        return generate_latest(registry)

    def _merged(self, snapshots: Sequence[Snapshot]) -> list[Metric]:
        return [
            exposed(
                one.kind,
                one.name,
                one.text,
                one.label_names,
                self._bounds.get(one.name, ()),
                merge((snapshot.get(one.name, ()) for snapshot in snapshots), one.together),
            )
            for one in self._families
        ]


def _resident_bytes() -> float:
    """This process's resident memory; 0 where the system does not say."""
    try:
        return float(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0.0


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
