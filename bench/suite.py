"""A suite: arms and the workloads each is measured under, all in one run, rounds interleaved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil
import uvloop
from rich.console import Console
from rich.progress import Progress

from bench.arms import Arm, Upstream
from bench.measure import Figures, measure
from bench.processes import Placement, UnavailableError
from bench.workloads import Workload


@dataclass(frozen=True, slots=True)
class Options:
    """How to run: `arms` are words of which an arm's name must hold one (none: every arm)."""

    rounds: int
    seconds: float
    arms: tuple[str, ...]
    placement: Placement
    requests: int = 1_000_000  # of each arm of the memory suite

    def as_json(self) -> dict[str, object]:
        """For the record."""
        return {"rounds": self.rounds, "seconds": self.seconds, "pinned": self.placement.gateway is not None}

    def wants(self, arm: Arm) -> bool:
        """Whether this arm is to be measured; the two references always are."""
        return not self.arms or any(word in arm.name for word in self.arms) or arm.name in ("direct", "bare envoy")


@dataclass(slots=True)
class Results:
    """Every round by workload and arm, in the order of the suite; and why an arm is not there."""

    rounds: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def failed(self, tolerated: Sequence[str] = ()) -> bool:
        """Whether a request failed or an arm, one of `tolerated` aside, did not do what it is measured for."""
        own = (rounds for (_, arm), rounds in self.rounds.items() if arm not in tolerated)
        return any(one.failed or one.problems for rounds in own for one in rounds)


@dataclass(frozen=True, slots=True)
class Suite:
    """`cells` are the arms, each with its workloads. `verdicts` sets the results against the figures to reach.

    What fails in a `tolerated` arm is shown and does not fail the run.
    """

    name: str
    title: str
    cells: Sequence[tuple[Arm, tuple[Workload, ...]]]
    verdicts: Callable[[Results], list[str]] = lambda _: []
    tolerated: tuple[str, ...] = ()


def run(suite: Suite, options: Options, console: Console) -> Results:
    """Measure every cell, `rounds` times. An arm that does not come up is noted, and the run goes on without it."""
    results = Results()
    options.placement.settle()
    upstream = Upstream(options.placement)
    started: list[Arm] = []
    running: list[tuple[Arm, tuple[Workload, ...]]] = []
    try:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("starting", total=None)
            upstream.start()
            for arm, workloads in suite.cells:
                if not options.wants(arm):
                    continue
                progress.update(task, description=f"starting {arm.name}")
                started.append(arm)
                try:
                    arm.start(upstream.port, options.placement)
                except UnavailableError as error:
                    results.unavailable[arm.name] = str(error)
                else:
                    running.append((arm, workloads))
            cells = _by_workload(running)
            progress.update(task, total=options.rounds * len(cells))
            for number in range(options.rounds):
                for workload, arm in cells:
                    description = f"{suite.name}, round {number + 1}: {workload.name}, {arm.name}"
                    progress.update(task, description=description)
                    figures = _measure(arm, upstream, workload, options.seconds)
                    results.rounds.setdefault((workload.name, arm.name), []).append(figures)
                    progress.advance(task)
    finally:
        for arm in started:
            arm.stop()
        upstream.stop()
    return results


def _measure(arm: Arm, upstream: Upstream, workload: Workload, seconds: float) -> Figures:
    """One cell of one round. What dies or hangs in it is a problem of this cell alone."""
    try:
        return uvloop.run(measure(arm, upstream, workload, seconds=seconds))
    except (psutil.Error, OSError, TimeoutError) as error:
        return Figures(failed=1, problems=(f"{type(error).__name__}: {error}",))


def _by_workload(cells: Sequence[tuple[Arm, tuple[Workload, ...]]]) -> list[tuple[Workload, Arm]]:
    """Arms to be compared stand next to each other in time."""
    workloads = dict.fromkeys(workload for _, own in cells for workload in own)
    return [(workload, arm) for workload in workloads for arm, own in cells if workload in own]
