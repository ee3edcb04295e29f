"""Counters, gauges and histograms that cost the hot path an addition, and the families that hold them.

prometheus-client's own series take a lock for every increment, which is most of what a decision would spend on metrics.
These belong to one thread (the event loop's) and are read by the same thread; prometheus-client still writes the
exposition. A family can be copied out and merged, so that several workers show as one.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeAlias, TypeVar

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

Labels: TypeAlias = tuple[str, ...]
Row: TypeAlias = tuple[Labels, list[float]]  # one series: its labels and what it holds (see `Series.values`)


class Series(Protocol):
    """One time series."""

    def values(self) -> list[float]:
        """What it holds, as numbers that add up over several workers."""


class Counter:
    """Only goes up."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Count `amount` more."""
        self.value += amount

    def values(self) -> list[float]:
        return [self.value]


class Gauge:
    """Goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        """Show `value` from now on."""
        self.value = value

    def values(self) -> list[float]:
        return [self.value]


class Histogram:
    """Observations by bucket. `bounds` are upper bounds, ascending."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0.0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def values(self) -> list[float]:
        """The sum, then the count of each bucket, the last one without a bound."""
        return [self._sum, *self._counts]


SeriesT = TypeVar("SeriesT", bound=Series)


class Family(Generic[SeriesT]):
    """All series of one metric, by the values of its labels."""

    def __init__(
        self,
        kind: str,
        name: str,
        text: str,
        labels: Labels,
        make: Callable[[], SeriesT],
        together: Callable[[float, float], float] = operator.add,
    ) -> None:
        self.together = together  # what the values of two workers are, as one
        self.kind = kind
        self.name = name
        self.text = text
        self.label_names = labels
        self._make = make
        self._series: dict[Labels, SeriesT] = {}

    def labels(self, *values: str) -> SeriesT:
        """The series of these label values. Keep it where it is needed often."""
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = self._make()
        return found

    def clear(self) -> None:
        """Forget every series."""
        self._series.clear()

    def rows(self) -> list[Row]:
        """Every series, to be shown or merged."""
        return [(labels, series.values()) for labels, series in self._series.items()]


def merge(rows: Iterable[Iterable[Row]], together: Callable[[float, float], float]) -> list[Row]:
    """The series of several workers as one, value by value."""
    merged: dict[Labels, list[float]] = {}
    for worker in rows:
        for given, values in worker:
            labels = tuple(given)
            before = merged.get(labels)
            if before is None:
                merged[labels] = list(values)
            else:
                merged[labels] = [together(a, b) for a, b in zip(before, values, strict=True)]
    return list(merged.items())


def exposed(
    kind: str, name: str, text: str, label_names: Sequence[str], bounds: Sequence[float], rows: Iterable[Row]
) -> Metric:
    """One family as prometheus-client writes it."""
    if kind == "counter":
        counters = CounterMetricFamily(name, text, labels=label_names)
        for labels, values in rows:
            counters.add_metric(labels, values[0])
        return counters
    if kind == "gauge":
        gauges = GaugeMetricFamily(name, text, labels=label_names)
        for labels, values in rows:
            gauges.add_metric(labels, values[0])
        return gauges
    histograms = HistogramMetricFamily(name, text, labels=label_names)
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    for labels, (total, *counts) in rows:
        running, buckets = 0.0, []
        for bound, count in zip(names, counts, strict=True):
            running += count
            buckets.append((bound, running))
        histograms.add_metric(labels, buckets, total)
    return histograms
