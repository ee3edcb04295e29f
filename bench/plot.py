"""Plots of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

from bench.cpu import python_us
from bench.measure import Figures

mpl.use("Agg")
from matplotlib import pyplot as plt

_ENVOY, _PYTHON, _OTHER, _RATE = "#ccbb44", "#228833", "#aa3377", "#4477aa"


def plot(title: str, rounds: Mapping[tuple[str, str], Sequence[Figures]], path: Path) -> Path:
    """Per workload: requests/s above, CPU per request below (saturated, else at the workload's rate); medians."""
    workloads = list(dict.fromkeys(workload for workload, _ in rounds))
    arms = list(dict.fromkeys(arm for _, arm in rounds))
    height = 1.5 + 0.4 * len(arms)
    figure, axes = plt.subplots(2, len(workloads), figsize=(2 + 5 * len(workloads), 2 * height), squeeze=False)
    figure.suptitle(title)
    for column, workload in enumerate(workloads):
        own = {arm: rounds[workload, arm] for arm in arms if (workload, arm) in rounds}
        names = list(own)
        values = [statistics.median(one.requests_per_second for one in seen) for seen in own.values()]
        rates = axes[0][column].barh(names, values, color=_RATE)
        axes[0][column].bar_label(rates, fmt=lambda value: f"{value:,.0f}" if value else "paced, not saturated")
        axes[0][column].set_title(f"{workload}\nrequests/s")
        _stack(axes[1][column], own)
        for row in (0, 1):
            axes[row][column].invert_yaxis()
            axes[row][column].margins(x=0.2)
            if column:
                axes[row][column].tick_params(labelleft=names != arms)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path


def _stack(axis: plt.Axes, own: Mapping[str, Sequence[Figures]]) -> None:
    bottom = [0.0] * len(own)
    for part, colour in (("Envoy", _ENVOY), ("Python", _PYTHON), ("other", _OTHER)):
        values = [statistics.median(_part(one, part) for one in seen) for seen in own.values()]
        if not any(values):
            continue
        bars = axis.barh(list(own), values, left=bottom, label=part, color=colour)
        axis.bar_label(bars, labels=[f"{value:.0f}" if value >= 1 else "" for value in values], label_type="center")
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    axis.set_title("CPU us per request")
    if any(bottom):
        axis.legend()


def _part(figures: Figures, part: str) -> float:
    used = figures.cpu_us or figures.paced_cpu_us
    envoy, python = used.get("envoy", 0.0), python_us(used)
    return {"Envoy": envoy, "Python": python, "other": sum(used.values()) - envoy - python}[part]


def lines(title: str, x: str, y: str, curves: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> Path:
    """Curves over one axis."""
    figure, axis = plt.subplots(figsize=(9, 5))
    for name, points in curves.items():
        axis.plot([at for at, _ in points], [value for _, value in points], label=name)
    axis.set_title(title)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_ylim(bottom=0)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path
