"""Whether memory stays where it is while a million requests pass."""

from __future__ import annotations

from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import Progress

from bench.arms import Upstream
from bench.chain import KEYS, gateways
from bench.cpu import rss_mb
from bench.loadgen import closed
from bench.machine import machine
from bench.measure import CONNECTIONS
from bench.plot import lines
from bench.probe import probe
from bench.processes import UnavailableError
from bench.report import publish
from bench.sheet import Sheet
from bench.suite import Options
from bench.verdicts import verdict
from bench.workloads import Workload

_STEPS = 50  # samples of one arm: every 2 %
_STREAM_EVERY = 5  # one step in five is streams of 50 chunks, the others JSON
_SLOWEST = 200.0  # requests/s below which a step is given up
_MOST_MB = 120.0
_MOST_GROWTH = 0.05  # of what it was at 10 %
_JSON = Workload("JSON", keys=KEYS)
_STREAM = Workload("stream", stream=True, keys=KEYS)

Samples = dict[str, list[tuple[int, float]]]  # by process: (requests so far, MB)


def main(options: Options, folder: Path, console: Console) -> bool:
    """Run it and report. Returns whether something failed."""
    upstream = Upstream(options.placement)
    options.placement.settle()
    seen: dict[str, Samples] = {}
    problems: dict[str, str] = {}
    upstream.start()
    try:
        with Progress(console=console) as progress:
            for arm in gateways():
                if not options.wants(arm):
                    continue
                task = progress.add_task(arm.name, total=_STEPS)
                try:
                    arm.start(upstream.port, options.placement)
                    seen[arm.name] = {}
                    for step in range(_STEPS):
                        workload = _STREAM if step % _STREAM_EVERY == _STREAM_EVERY - 1 else _JSON
                        problem = probe(arm, workload).problem
                        count = options.requests // _STEPS
                        load = uvloop.run(
                            closed(
                                workload.target(arm.port),
                                connections=CONNECTIONS,
                                seconds=10 + count / _SLOWEST,
                                count=count,
                            )
                        )
                        problem = problem or load.complaint or ("too slow" if load.done < count else "")
                        if problem:
                            problems[arm.name] = f"{problem}, at {step * 100 // _STEPS} %"
                            break
                        for role, value in rss_mb(arm.roles).items():
                            seen[arm.name].setdefault(role, []).append(((step + 1) * count, value))
                        shown = ", ".join(f"{role} {points[-1][1]:.0f} MB" for role, points in seen[arm.name].items())
                        progress.update(task, advance=1, description=f"{arm.name}: {shown}")
                except UnavailableError as error:
                    problems[arm.name] = f"not available: {error}"
                finally:
                    arm.stop()
    finally:
        upstream.stop()
    publish("memory", _sheet(seen, problems, options), {"samples": seen, "problems": problems}, folder, console)
    curves = {f"{arm}: {role}": points for arm, own in seen.items() for role, points in own.items()}
    if curves:
        console.print(f"written: {lines('Resident memory', 'requests', 'MB', curves, folder / 'memory.png')}")
    return any(arm in seen for arm in problems)


def _sheet(seen: dict[str, Samples], problems: dict[str, str], options: Options) -> Sheet:
    rows, notes = [], []
    for arm, samples in seen.items():
        for role, points in samples.items():
            if len(points) < _STEPS:
                continue
            early, half, end = (points[_STEPS * percent // 100 - 1][1] for percent in (10, 50, 100))
            rows.append((arm, role, f"{early:.1f}", f"{half:.1f}", f"{end:.1f}", f"{end / early - 1:+.1%}"))
            if role.startswith("python"):
                notes.append(verdict(f"{arm}: RSS of {role}", end, _MOST_MB, "MB"))
                growth = (end / early - 1) * 100
                notes.append(verdict(f"{arm}: growth of {role} after 10 %", growth, _MOST_GROWTH * 100, "%"))
    notes += [f"{arm}: {problem}" for arm, problem in problems.items()]
    notes.append(
        f"{options.requests:,} requests of each arm, {KEYS:,} keys in turn, one step in {_STREAM_EVERY} streams of "
        "50 chunks. MB are 10^6 bytes of resident memory, shared pages included."
    )
    columns = ("arm", "process", "RSS MB at 10 %", "at 50 %", "at 100 %", "growth from 10 %")
    return Sheet(f"Memory; {machine()}", columns, tuple(rows), tuple(notes))
