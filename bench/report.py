"""What was measured, as a table, as JSON and as a plot."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bench.measure import Figures

Results = Mapping[tuple[str, str], Sequence[Figures]]  # (workload, arm) -> rounds


def middle(rounds: Sequence[Figures]) -> Figures:
    """The medians of the rounds."""

    def over(values: Sequence[dict[str, float]]) -> dict[str, float]:
        return {role: statistics.median(value[role] for value in values) for role in values[0]}

    return Figures(
        statistics.median(one.requests_per_second for one in rounds),
        over([one.cpu_us for one in rounds]),
        over([one.rss_mb for one in rounds]),
        statistics.median(one.p50_ms for one in rounds),
        statistics.median(one.p99_ms for one in rounds),
        sum(one.failed for one in rounds),
        sum(one.late for one in rounds),
    )


def machine() -> str:
    """What it was measured on."""
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{psutil.cpu_count()} cores, {memory:.0f} GiB, {system}"


def table(results: Results, console: Console) -> None:
    """Print the medians. Added latency is against the direct arm of the same workload."""
    shown = Table(title=f"medians; {machine()}")
    for name in (
        "workload",
        "arm",
        "requests/s",
        "of bare",
        "CPU us/request",
        "added p50 ms",
        "added p99 ms",
        "RSS MB",
        "failed",
    ):
        shown.add_column(name, justify="left" if name in ("workload", "arm") else "right")
    medians = {place: middle(rounds) for place, rounds in results.items()}
    for (workload, arm), one in medians.items():
        direct, bare = medians.get((workload, "direct")), medians.get((workload, "bare envoy"))
        cpu = " + ".join(f"{role} {value:.0f}" for role, value in sorted(one.cpu_us.items())) or "-"
        rss = " + ".join(f"{role} {value:.0f}" for role, value in sorted(one.rss_mb.items())) or "-"
        shown.add_row(
            workload,
            arm,
            f"{one.requests_per_second:,.0f}",
            f"{one.requests_per_second / bare.requests_per_second:.2f}" if bare else "-",
            cpu,
            f"{one.p50_ms - direct.p50_ms:.2f}" if direct else f"({one.p50_ms:.2f})",
            f"{one.p99_ms - direct.p99_ms:.2f}" if direct else f"({one.p99_ms:.2f})",
            rss,
            str(one.failed + one.late),
        )
    console.print(shown)


def save(results: Results, folder: Path) -> tuple[Path, Path]:
    """Write every round as JSON, and the medians as a plot."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = [{"workload": w, "arm": a, "rounds": [asdict(one) for one in rounds]} for (w, a), rounds in results.items()]
    written = folder / "results.json"
    written.write_text(json.dumps({"machine": machine(), "results": raw}, indent=1))
    return written, _plot(results, folder / "results.png")


def _plot(results: Results, path: Path) -> Path:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    workloads = list(dict.fromkeys(workload for workload, _ in results))
    arms = list(dict.fromkeys(arm for _, arm in results))
    figure, axes = plt.subplots(2, len(workloads), figsize=(5 * len(workloads), 7), squeeze=False)
    for column, workload in enumerate(workloads):
        medians = [middle(results[workload, arm]) for arm in arms]
        rates = axes[0][column].bar(arms, [one.requests_per_second for one in medians], color="#4477aa")
        axes[0][column].bar_label(rates, fmt="{:,.0f}")
        axes[0][column].set_title(f"{workload}: requests/s")
        bottom = [0.0] * len(arms)
        for role, colour in (("envoy", "#ccbb44"), ("python", "#228833")):
            values = [one.cpu_us.get(role, 0.0) for one in medians]
            axes[1][column].bar(arms, values, bottom=bottom, label=role, color=colour)
            bottom = [low + value for low, value in zip(bottom, values, strict=True)]
        axes[1][column].set_title(f"{workload}: CPU us per request")
        axes[1][column].legend()
        for row in (0, 1):
            axes[row][column].tick_params(axis="x", labelrotation=15)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path
