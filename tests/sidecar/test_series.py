"""Series, their exposition, and several workers shown as one."""

from __future__ import annotations

import operator

from prometheus_client.parser import text_string_to_metric_families

from sidecar.metrics import Metrics
from sidecar.series import Counter, Histogram, merge


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_a_histogram_counts_up_to_and_with_its_bounds() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 7.0):
        histogram.observe(value)
    assert histogram.values() == [10.0, 2.0, 1.0, 1.0]


def test_labels_name_one_series_each() -> None:
    metrics = Metrics()
    metrics.decisions.labels("forward").inc()
    metrics.decisions.labels("forward").inc(2)
    metrics.decisions.labels("401").inc()
    found = samples(metrics.exposition())
    assert found["headgate_decisions_total", frozenset({("outcome", "forward")})] == 3
    assert found["headgate_decisions_total", frozenset({("outcome", "401")})] == 1


def test_buckets_are_cumulative_in_the_exposition() -> None:
    metrics = Metrics()
    for value in (1e-5, 3e-5, 9.0):
        metrics.decision_seconds.observe(value)
    found = samples(metrics.exposition())
    name = "headgate_decision_duration_seconds"
    assert found[f"{name}_bucket", frozenset({("le", "2.5e-05")})] == 1
    assert found[f"{name}_bucket", frozenset({("le", "5e-05")})] == 2
    assert found[f"{name}_bucket", frozenset({("le", "+Inf")})] == 3
    assert found[f"{name}_count", frozenset()] == 3


def test_workers_are_added_and_gauges_show_the_worst() -> None:
    first, second = Metrics(0), Metrics(1)
    first.decisions.labels("forward").inc(5)
    second.decisions.labels("forward").inc(7)
    second.decisions.labels("429").inc()
    first.reload_healthy.set(1)
    second.reload_healthy.set(0)
    found = samples(first.merged_exposition([first.snapshot(), second.snapshot()]))
    assert found["headgate_decisions_total", frozenset({("outcome", "forward")})] == 12
    assert found["headgate_decisions_total", frozenset({("outcome", "429")})] == 1
    assert found["headgate_config_last_reload_successful", frozenset()] == 0
    assert found["headgate_worker_decisions_total", frozenset({("worker", "0")})] == 5
    assert found["headgate_worker_decisions_total", frozenset({("worker", "1")})] == 8


def test_the_process_is_shown_too() -> None:
    found = samples(Metrics().exposition())
    assert found["headgate_worker_resident_memory_bytes", frozenset({("worker", "0")})] > 1_000_000


def test_merging_takes_lists_as_they_come_over_the_wire() -> None:
    counter = Counter()
    counter.inc()
    rows = [(("a",), counter.values())]
    wire = [(["a"], [2.0])]
    assert merge([rows, wire], operator.add) == [(("a",), [3.0])]  # type: ignore[list-item]
