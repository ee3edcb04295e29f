"""Whether a longer stream costs Python more: 1, 50 and 500 chunks, at an equal rate and saturated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from bench.chain import gateways
from bench.cpu import python_us
from bench.machine import machine
from bench.measure import Figures
from bench.plot import plot
from bench.report import envoy_us, publish
from bench.sheet import Sheet, Spread
from bench.suite import Options, Results, Suite, run
from bench.workloads import Workload

_RATE = 150.0  # requests/s that every length is paced at
_LEAST_ROUNDS = 5
_TOLERANCE = 0.10
WORKLOADS = tuple(
    Workload(f"{chunks} chunk{'s' if chunks > 1 else ''}", stream=True, chunks=chunks, rate=_RATE)
    for chunks in (1, 50, 500)
)
_COLUMNS = (
    "arm",
    "stream",
    f"Python us at {_RATE:g}/s",
    "of 1 chunk",
    "Envoy us",
    "Python us saturated",
    "of 1 chunk",
    "Envoy us",
    "requests/s",
    "checks",
)


def main(options: Options, folder: Path, console: Console) -> bool:
    """Run it and report. Returns whether something failed."""
    options = replace(options, rounds=max(options.rounds, _LEAST_ROUNDS))
    suite = Suite("streams", "CPU per request by the length of the stream", [(arm, WORKLOADS) for arm in gateways()])
    results = run(suite, options, console)
    shown = _sheet(suite, results, options)
    raw = [{"workload": w, "arm": a, "rounds": [asdict(one) for one in own]} for (w, a), own in results.rounds.items()]
    record = {"options": options.as_json(), "results": raw, "unavailable": results.unavailable}
    publish(suite.name, shown, record, folder, console)
    console.print(f"written: {plot(suite.title, results.rounds, folder / 'streams.png')}", highlight=False)
    return results.failed()


def _sheet(suite: Suite, results: Results, options: Options) -> Sheet:
    rows, notes = [], []
    for arm in dict.fromkeys(name for _, name in results.rounds):
        one_chunk = results.rounds[WORKLOADS[0].name, arm]
        for workload in WORKLOADS:
            rounds = results.rounds[workload.name, arm]
            at_rate, saturated = _ratio(rounds, one_chunk, paced=True), _ratio(rounds, one_chunk, paced=False)
            problems = {problem for one in rounds for problem in one.problems}
            rows.append(
                (
                    arm,
                    workload.name,
                    f"{Spread.of([python_us(one.paced_cpu_us) for one in rounds]):.1f}",
                    f"{at_rate:.3f}",
                    f"{Spread.of([envoy_us(one.paced_cpu_us) for one in rounds]).median:.0f}",
                    f"{Spread.of([python_us(one.cpu_us) for one in rounds]):.1f}",
                    f"{saturated:.3f}",
                    f"{Spread.of([envoy_us(one.cpu_us) for one in rounds]).median:.0f}",
                    f"{Spread.of([one.requests_per_second for one in rounds]).median:,.0f}",
                    "; ".join(sorted(problems)) or "ok",
                )
            )
            if workload is not WORKLOADS[0]:
                same = abs(at_rate.median - 1) <= _TOLERANCE
                notes.append(
                    f"{arm}, {workload.name}: {at_rate.median:.3f} of the Python CPU of 1 chunk at an equal rate "
                    f"(within {_TOLERANCE:.0%}: {'reached' if same else 'NOT reached'})"
                )
    notes += [f"not available: {arm}: {reason}" for arm, reason in results.unavailable.items()]
    notes.append(
        f"Median (lowest-highest) of {options.rounds} rounds of {options.seconds:g} s; a ratio is to the same round's."
        " Saturated, a longer stream means fewer requests/s, and fewer share one read: only the equal rate compares."
    )
    return Sheet(f"{suite.title}; {machine()}", _COLUMNS, tuple(rows), tuple(notes))


def _ratio(rounds: Sequence[Figures], base: Sequence[Figures], *, paced: bool) -> Spread:
    """Python's CPU against the same round's of one chunk."""

    def used(one: Figures) -> float:
        return python_us(one.paced_cpu_us if paced else one.cpu_us)

    return Spread.of([used(own) / (used(first) or 1.0) for own, first in zip(rounds, base, strict=True)])
