"""What a suite measured: a table, its markdown, every round as JSON, and a plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from bench.cpu import python_us
from bench.machine import machine
from bench.measure import Figures
from bench.plot import plot
from bench.sheet import Sheet, Spread
from bench.suite import Options, Results, Suite, run

_COLUMNS = (
    "workload",
    "arm",
    "requests/s",
    "of bare",
    "Envoy us",
    "Python us",
    "other us",
    "at the rate: Envoy + Python + other us",
    "added p50 / p99 ms over direct",
    "over bare",
    "RSS MB",
    "checks",
)


def spread(rounds: Sequence[Figures], value: Callable[[Figures], float]) -> Spread:
    """One figure over the rounds."""
    return Spread.of([value(one) for one in rounds])


def envoy_us(cpu_us: dict[str, float]) -> float:
    """Envoy's share."""
    return cpu_us.get("envoy", 0.0)


def other_us(cpu_us: dict[str, float]) -> float:
    """What is neither Envoy nor our Python: Redis, or a peer's processes."""
    return sum(cpu_us.values()) - envoy_us(cpu_us) - python_us(cpu_us)


_PARTS = (envoy_us, python_us, other_us)


def sheet(suite: Suite, results: Results, options: Options) -> Sheet:
    """The table of a suite, and under it what was reached."""
    rows = [_row(results, workload, arm) for workload, arm in results.rounds]
    notes = [
        *suite.verdicts(results),
        *(f"not available: {arm}: {reason}" for arm, reason in results.unavailable.items()),
        f"Median (lowest-highest) of {options.rounds} rounds of {options.seconds:g} s"
        + (
            ", pinned: gateway on one core, load on the other; that is for CPU, for added time let it float. "
            if options.placement.gateway
            else ". "
        )
        + "CPU per request, user and system, all threads. Added time is at the workload's rate, from when a request "
        "left (or would have, with a free connection).",
        _load_note(results),
    ]
    return Sheet(f"{suite.title}; {machine()}", _COLUMNS, tuple(rows), tuple(notes))


def _load_note(results: Results) -> str:
    """What generator and provider cost, where nothing stands between them: whether they can be the limit."""
    parts = []
    for (workload, arm), rounds in results.rounds.items():
        if arm == "direct" and rounds[0].requests_per_second:
            generator = spread(rounds, lambda one: one.generator_us).median
            provider = spread(rounds, lambda one: one.provider_us).median
            parts.append(f"{generator:.0f} + {provider:.0f} ({workload})")
    late = sum(one.late for rounds in results.rounds.values() for one in rounds)
    lag = max((one.lag_p99_ms for rounds in results.rounds.values() for one in rounds), default=0.0)
    return (
        f"Generator + provider, CPU us per request, direct: {', '.join(parts) or '-'}. {late} paced requests found no "
        f"free connection; the generator's timer was at most {lag:.1f} ms behind (p99)."
    )


def _row(results: Results, workload: str, arm: str) -> tuple[str, ...]:
    rounds = results.rounds[workload, arm]
    direct, bare = (results.rounds.get((workload, name)) for name in ("direct", "bare envoy"))
    first = rounds[0]
    problems = {problem for one in rounds for problem in one.problems}
    failed = sum(one.failed for one in rounds)
    rate = spread(rounds, lambda one: one.requests_per_second)
    bare_rate = spread(bare, lambda one: one.requests_per_second).median if bare else 0.0
    at_rate = [spread(rounds, lambda one, part=part: part(one.paced_cpu_us)).median for part in _PARTS]  # type: ignore[misc]
    return (
        workload,
        arm,
        f"{rate:,.0f}" if first.requests_per_second else "-",
        f"{rate.median / bare_rate:.2g}" if bare_rate else "-",
        *(_cpu(rounds, part) for part in _PARTS),
        " + ".join(f"{value:.0f}" for value in at_rate if value >= 1) or "-",
        _added(rounds, direct),
        _added(rounds, bare),
        _rss(rounds[-1].rss_mb),
        "; ".join([*sorted(problems), *([f"{failed} failed"] if failed else [])]) or "ok",
    )


def _rss(rss_mb: dict[str, float]) -> str:
    """By role; a peer's processes as one sum."""
    tree = [value for role, value in rss_mb.items() if role.startswith("process")]
    if tree:
        return f"{sum(tree):.0f} in {len(tree)} process{'es' if len(tree) > 1 else ''}"
    return " + ".join(f"{role} {value:.0f}" for role, value in sorted(rss_mb.items())) or "-"


def _cpu(rounds: Sequence[Figures], part: Callable[[dict[str, float]], float]) -> str:
    value = spread(rounds, lambda one: part(one.cpu_us))
    return f"{value:.1f}" if value.high > 0.05 else "-"


def added_ms(rounds: Sequence[Figures], reference: Sequence[Figures]) -> tuple[float, float]:
    """p50 and p99 in milliseconds beyond a reference's, medians of the rounds."""
    p50 = spread(rounds, lambda one: one.p50_ms).median - spread(reference, lambda one: one.p50_ms).median
    p99 = spread(rounds, lambda one: one.p99_ms).median - spread(reference, lambda one: one.p99_ms).median
    return p50, p99


def _added(rounds: Sequence[Figures], reference: Sequence[Figures] | None) -> str:
    if not reference or not reference[0].p50_ms or not rounds[0].p50_ms:
        return "-"
    p50, p99 = added_ms(rounds, reference)
    return f"{p50:.2f} / {p99:.2f}"


def run_and_write(suite: Suite, options: Options, folder: Path, console: Console) -> bool:
    """Run a suite, print its table, write JSON, markdown and plot into `folder`. Returns whether something failed."""
    results = run(suite, options, console)
    shown = sheet(suite, results, options)
    rounds = [
        {"workload": w, "arm": a, "rounds": [asdict(one) for one in own]} for (w, a), own in results.rounds.items()
    ]
    record = {"options": options.as_json(), "results": rounds, "unavailable": results.unavailable}
    publish(suite.name, shown, record, folder, console)
    console.print(f"written: {plot(suite.title, results.rounds, folder / f'{suite.name}.png')}", highlight=False)
    return results.failed(suite.tolerated)


def publish(name: str, shown: Sheet, raw: Mapping[str, object], folder: Path, console: Console) -> None:
    """Print a table and write it as markdown, with the raw figures beside it as JSON."""
    console.print(shown.rich())
    for note in shown.notes:
        console.print(f"- {note}", highlight=False, markup=False)
    folder.mkdir(parents=True, exist_ok=True)
    markdown, written = folder / f"{name}.md", folder / f"{name}.json"
    markdown.write_text(shown.markdown())
    written.write_text(json.dumps({"machine": machine(), **raw}, indent=1))
    console.print(f"written: {markdown}, {written}", highlight=False)
