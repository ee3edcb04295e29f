"""`python -m tests.faults`: starts a gateway and its providers, runs the fault table, and shows what came of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.faults import report, runner
from tests.faults.house import FaultHouse
from tests.faults.table import table
from tests.gateway import Gateway


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 when something differs, 2 when it could not run."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the markers of a document")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the cases whose names hold this")
    given = parser.parse_args(arguments)
    shown, told = Console(), Console(stderr=True)
    cases = tuple(case for case in table() if given.only in case.name)
    if not cases or (given.write and given.only):
        told.print("nothing to run" if not cases else "--write needs the whole table", style="red")
        return 2
    try:
        with FaultHouse(cases) as house, Progress(console=told) as progress:
            starting = progress.add_task("starting the gateway", total=None)
            with Gateway(house.config()) as gateway:
                progress.remove_task(starting)
                task = progress.add_task(f"{len(cases)} cases", total=len(cases))
                results = list(runner.run_all(gateway.listen, house, cases, lambda: progress.advance(task)))
        shown.print(report.terminal(results))
        if given.write:
            report.write(given.write, results)
    except (RuntimeError, OSError, ValueError) as error:
        told.print(str(error), style="red", markup=False, highlight=False)
        return 2
    wrong = report.failed(results)
    told.print(f"{len(results)} cases, {wrong} differ" if wrong else f"{len(results)} cases, all as they must be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
