"""`python -m bench [SUITE]`: measure a suite's arms side by side. Every run is bounded in time, loopback only."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from bench import cache, chain, fallback, memory, peers, scaling, services, streams
from bench.processes import FLOATING, Placement
from bench.suite import Options

_WIDTH = 200  # of the tables; a narrower terminal wraps them
SUITES = {
    one.__name__.rpartition(".")[2]: one for one in (chain, services, streams, memory, peers, fallback, cache, scaling)
}


def main() -> int:
    """Run it; the exit status is 1 when a request failed or an arm did not do what it is measured for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)} (default: chain)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.75, help="of each measurement")
    parser.add_argument("--arms", default="", help="comma-separated words: only arms whose name holds one of them")
    parser.add_argument("--pin", action="store_true", help="gateway on one core, generator and provider on another")
    parser.add_argument("--requests", type=int, default=1_000_000, help="of each arm of the memory suite")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    unknown = set(arguments.suites) - set(SUITES)
    if unknown:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}; there are: {', '.join(SUITES)}")
    console = Console()
    if console.width < _WIDTH:
        console = Console(width=_WIDTH)
    options = Options(
        arguments.rounds,
        arguments.seconds,
        tuple(word.strip() for word in arguments.arms.split(",") if word.strip()),
        Placement.pinned() if arguments.pin else FLOATING,
        arguments.requests,
    )
    failed = [SUITES[name].main(options, arguments.output, console) for name in arguments.suites or ["chain"]]
    return int(any(failed))


if __name__ == "__main__":
    raise SystemExit(main())
