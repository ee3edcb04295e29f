"""`python -m bench.algorithms`: what each algorithm lets through, and what a decision costs.

Three loads against 60 hits a minute, on a clock of their own: a burst before and after a window's edge, a steady load
of twice the limit, and one that goes on and off. Then the time of the script in a real Redis (its own statistics), and
the memory of a counter there and in the embedded store. Writes `docs/algorithms.png` and prints the tables.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from bench.machine import machine
from bench.memory_store import apart, density
from ratelimit.rules import Algorithm
from ratelimit.storage import MemoryStore, RedisStore
from ratelimit.storage.base import Action, Operation, Shape
from sidecar.redis import connect
from tests.redis_server import RedisServer

mpl.use("Agg")
from matplotlib import pyplot as plt

NOON = 1_700_000_040
LIMIT, PERIOD = 60, 60  # 60 hits a minute
_GREY, _BLUE, _RED = "#bbbbbb", "#4477aa", "#aa3377"


class Arm(NamedTuple):
    """An algorithm, and its bucket's size."""

    name: str
    algorithm: Algorithm
    burst: int = LIMIT

    def operation(self, key: str, now: float, hits: int = 1, limit: int = LIMIT, burst: int = 0) -> Operation:
        """One call."""
        shape = Shape(self.algorithm, PERIOD, burst or self.burst)
        if self.algorithm is Algorithm.FIXED_WINDOW:
            start = int(now) - int(now) % PERIOD
            return Operation(f"{key}_{start}", Action.RESERVE, hits, limit, 2 * PERIOD)
        return Operation(key, Action.RESERVE, hits, limit, 2 * PERIOD, shape)


ARMS = (
    Arm("fixed window", Algorithm.FIXED_WINDOW),
    Arm("sliding window", Algorithm.SLIDING_WINDOW),
    Arm("sliding log", Algorithm.SLIDING_LOG),
    Arm("token bucket, burst 60", Algorithm.TOKEN_BUCKET),
    Arm("GCRA, burst 15", Algorithm.GCRA, 15),
)


class Load(NamedTuple):
    """When calls come, in seconds after a window's start."""

    name: str
    times: Sequence[float]


def loads() -> tuple[Load, ...]:
    """A burst of 60 in the 5 s before an edge and one after it; 2 a second; 4 a second in every other half minute."""
    edge = [PERIOD - 5 + number / 12 for number in range(120)]
    steady = [number / 2 for number in range(8 * PERIOD)]
    on_off = [at / 4 for at in range(4 * 240) if at / 4 % 60 < 30]
    return (
        Load("60 before and 60 after an edge", edge),
        Load("steady, twice the limit", steady),
        Load("on and off, 30 s each", on_off),
    )


class Passed(NamedTuple):
    """The times of the calls that passed, the most of them in any minute, and their share."""

    times: Sequence[float]
    most: int
    share: float


def play(arm: Arm, load: Load) -> Passed:
    """The load against a new counter."""
    store, passed = MemoryStore(), []
    for at in load.times:
        (count,) = store.apply([arm.operation("k", NOON + at)], NOON + at)
        if not count.over:
            passed.append(at)
    most = max(sum(first <= at < first + PERIOD for at in passed) for first in passed)
    return Passed(passed, most, len(passed) / len(load.times))


def plot(results: dict[tuple[str, str], Passed], path: Path) -> None:
    """Small multiples: a row for each load, a column for each algorithm."""
    figure, axes = plt.subplots(3, len(ARMS), figsize=(19, 9.5), sharex="row", sharey="row")
    figure.suptitle(
        f"{LIMIT} calls a minute. Calls in 5 s: asked (grey) and passed (blue); red: what passed in the last minute"
    )
    for row, load in enumerate(loads()):
        end = load.times[-1] + (PERIOD if row == 0 else 1)
        bins = [5.0 * step for step in range(int(end // 5) + 2)]
        for column, arm in enumerate(ARMS):
            axis, passed = axes[row][column], results[arm.name, load.name]
            axis.hist(load.times, bins=bins, color=_GREY)
            axis.hist(passed.times, bins=bins, color=_BLUE)
            moments = [step / 2 for step in range(int(2 * end))]
            trailing = [sum(moment - PERIOD < at <= moment for at in passed.times) for moment in moments]
            axis.plot(moments, trailing, color=_RED)
            axis.axhline(LIMIT, color=_RED, linestyle=":", linewidth=1)
            for edge in range(PERIOD, int(end) + 1, PERIOD):
                axis.axvline(edge, color="black", linestyle=":", linewidth=0.7)
            axis.set_title(
                f"{arm.name}\nat most {passed.most} in a minute" if row == 0 else f"at most {passed.most} in a minute"
            )
            if column == 0:
                axis.set_ylabel(f"{load.name}\ncalls")
            if row == 2:
                axis.set_xlabel("seconds (dotted: a window's edge)")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


class Cost(NamedTuple):
    """In Redis: microseconds of a script that admits, of one that denies, and bytes of a key."""

    admitted: float
    denied: float
    bytes: int


async def cost(server: RedisServer, arm: Arm, calls: int, entries: int = 1) -> Cost:
    """By Redis' own statistics. `entries` calls were counted before; time goes on by a millisecond a call."""
    store, key = RedisStore(connect(server.url, timeout=5)), f"{{bench_key_team-a}}_requests_[{arm.algorithm.value}:1m]"
    await store.forget([key])
    with server.client() as client:
        client.flushall()
        now = float(NOON)

        async def ask(count: int, hits: int, limit: int) -> float:
            nonlocal now
            client.config_resetstat()
            for start in range(0, count, 50):
                waiting = []
                for _ in range(start, min(count, start + 50)):
                    waiting.append(store.apply([arm.operation(key, now, hits, limit, limit)], now))
                    now += PERIOD / max(calls, entries) / 3  # all of it within a minute
                for one in waiting:
                    await one
            return float(client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])

        await ask(entries, 1, 10**9)
        (name,) = client.keys("*")
        size = int(client.execute_command("MEMORY", "USAGE", name, "SAMPLES", 0))
        denied = await ask(calls, 1, entries)  # one more than is in use
        admitted = await ask(calls, 1, 10**9)
    await store.close()
    return Cost(admitted, denied, size)


async def costs(calls: int) -> dict[str, Cost]:
    """Every algorithm's; the log's at three lengths."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="hg-bench-") as folder, RedisServer(Path(folder)) as server:
        for arm in ARMS:
            lengths = (1, 100, 10_000) if arm.algorithm is Algorithm.SLIDING_LOG else (1,)
            for entries in lengths:
                name = arm.algorithm.value + (f", {entries:,} before" if len(lengths) > 1 else "")
                found[name] = await cost(server, arm, calls, entries)
    return found


def main() -> None:
    """Measure, plot and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.algorithms", description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="of each script measurement")
    parser.add_argument("--keys", type=int, default=200_000, help="of each embedded store; 0: leave them out")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "docs" / "algorithms.png")
    arguments = parser.parse_args()
    console = Console(width=130)
    results = {(arm.name, load.name): play(arm, load) for arm in ARMS for load in loads()}
    plot(results, arguments.output)
    table = Table(title=f"{LIMIT} calls a minute: the most that passed in any minute, and the share of all calls")
    table.add_column("algorithm")
    for load in loads():
        table.add_column(load.name, justify="right")
    for arm in ARMS:
        seen = [results[arm.name, load.name] for load in loads()]
        table.add_row(arm.name, *(f"{one.most}, {one.share:.0%}" for one in seen))
    console.print(table)
    table = Table(title=f"One counter, one decision; {machine()}")
    for column in ("algorithm", "script, us", "denied, us", "Redis, bytes a key", "embedded, bytes over the key"):
        table.add_column(column, justify="left" if column == "algorithm" else "right")
    for name, one in asyncio.run(costs(arguments.calls)).items():
        embedded = ""
        if arguments.keys and not name.endswith("0 before"):
            seen_there = apart(density, Algorithm(name.partition(",")[0]), arguments.keys)
            embedded = f"{seen_there.rss:.0f}"
        table.add_row(name, f"{one.admitted:.1f}", f"{one.denied:.1f}", f"{one.bytes:,}", embedded)
    console.print(table)


if __name__ == "__main__":
    main()
