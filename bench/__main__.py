"""`python -m bench`: measure every arm under every workload, rounds interleaved, each run bounded in time."""

from __future__ import annotations

import argparse
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import Progress

from bench.arms import ARMS, Upstream
from bench.measure import Figures, Workload, measure
from bench.report import save, table

CHUNKS = 50
_WIDTH = 140  # of the table; a narrower terminal wraps it
WORKLOADS = (Workload("JSON, 2 KB request", stream=False), Workload(f"stream, {CHUNKS} chunks", stream=True))


def main() -> int:
    """Run it; the exit status is 1 when a request failed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--arms", default="", help="comma-separated, of: " + ", ".join(arm.name for arm in ARMS))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    wanted = {name for name in arguments.arms.split(",") if name}
    kinds = [kind for kind in ARMS if not wanted or kind.name in wanted]
    console = Console()
    if console.width < _WIDTH:
        console = Console(width=_WIDTH)
    results: dict[tuple[str, str], list[Figures]] = {(w.name, k.name): [] for w in WORKLOADS for k in kinds}
    upstream = Upstream(CHUNKS)
    upstream.start()
    arms = [kind(upstream.port) for kind in kinds]
    try:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("starting", total=arguments.rounds * len(WORKLOADS) * len(arms))
            for arm in arms:
                arm.start()
            for round_number in range(arguments.rounds):
                for workload in WORKLOADS:
                    for arm in arms:
                        progress.update(task, description=f"round {round_number + 1}: {workload.name}, {arm.name}")
                        figures = uvloop.run(measure(arm, workload, seconds=arguments.seconds))
                        results[workload.name, arm.name].append(figures)
                        progress.advance(task)
    finally:
        for arm in arms:
            arm.stop()
        upstream.stop()
    table(results, console)
    for path in save(results, arguments.output):
        console.print(f"written: {path}", highlight=False)
    return 1 if any(one.failed for rounds in results.values() for one in rounds) else 0


if __name__ == "__main__":
    raise SystemExit(main())
