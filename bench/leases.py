"""`python -m bench.leases`: what leases save on a hot key, and what they cost.

Several limiters, each a process of its own as far as Redis can tell, share one limit on one key until all of them are
denied. The clock stands, so the window never ends. Shown: round trips per decision, decisions per second and CPU; how
many hits were admitted beyond the limit (overshoot: never any), how many were left when the first call was denied, and
how many nobody got in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import NamedTuple

import uvloop
from rich.console import Console
from rich.table import Table

from bench.machine import machine
from ratelimit.limiter import Limiter, LimitRequest
from ratelimit.rules import Descriptor, Node, Rate, Rule, RuleSet, Unit
from ratelimit.storage import open_store
from ratelimit.storage.base import Count, Operation, Store
from tests.redis_server import RedisServer

_LEASES = (0, 10, 100, 1_000)


class Figures(NamedTuple):
    """One run."""

    trips: float
    per_second: float
    cpu_us: float
    overshoot: int
    left_at_first_denial: int
    left_at_end: int


class _Counted:
    """A store that counts its round trips."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.trips = 0

    def apply(self, operations: Sequence[Operation], now: float) -> list[Count] | Awaitable[Sequence[Count]]:
        self.trips += 1
        return self._inner.apply(operations, now)

    async def forget(self, keys: Sequence[str]) -> None:
        await self._inner.forget(keys)

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        await self._inner.close()


async def run(url: str, lease: int, limit: int, instances: int, clients: int, fresh: int) -> Figures:
    """Use up one limit, and say what it took."""
    rules = RuleSet({"d": (Node("k", None, Rule(Rate(limit, Unit.HOUR), label="k", lease=lease)),)})
    request = LimitRequest("d", (Descriptor((("k", f"hot-{fresh}"),)),))
    stores = [_Counted(open_store(f"{url}?socket_timeout=5")) for _ in range(instances)]
    admitted, decisions, first = 0, 0, -1

    async def client(limiter: Limiter) -> None:
        nonlocal admitted, decisions, first
        denied = 0
        while denied < 3:
            answer = limiter.decide(rules, request)
            decision = answer if not isinstance(answer, Awaitable) else await answer
            decisions += 1
            if decision.over:
                denied += 1
                first = admitted if first < 0 else first
            else:
                admitted += 1

    limiters = [Limiter(store, lambda: 1_700_000_000.0) for store in stores]
    started, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(limiter) for limiter in limiters for _ in range(clients)))
    used, seconds = time.process_time() - used, time.perf_counter() - started
    trips = sum(store.trips for store in stores)
    for store in stores:
        await store.close()
    return Figures(
        trips / decisions,
        decisions / seconds,
        used / decisions * 1e6,
        max(0, admitted - limit),
        limit - first,
        limit - admitted,
    )


def main() -> int:
    """Run it; about a minute."""
    parser = argparse.ArgumentParser(prog="python -m bench.leases", description=__doc__)
    parser.add_argument("--limit", type=int, default=50_000)
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--clients", type=int, default=32, help="of each instance")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    runs: dict[int, list[Figures]] = {lease: [] for lease in _LEASES}
    with tempfile.TemporaryDirectory(prefix="hg-bench-") as folder, RedisServer(Path(folder)) as server:
        for number in range(arguments.rounds):
            for lease in _LEASES:
                figures = uvloop.run(
                    run(
                        server.url,
                        lease,
                        arguments.limit,
                        arguments.instances,
                        arguments.clients,
                        number * 10_000 + lease,
                    )
                )
                runs[lease].append(figures)
    table = Table(
        title=f"{arguments.limit} hits an hour, {arguments.instances} instances, {arguments.clients} clients each, "
        f"medians of {arguments.rounds} rounds; {machine()}"
    )
    for column in ("lease", "round trips per decision", "decisions/s", "CPU us", "overshoot (worst)",
                   "left at first denial (worst)", "left at the end (worst)"):  # fmt: skip
        table.add_column(column, justify="right")
    for lease, seen in runs.items():
        table.add_row(
            str(lease),
            f"{statistics.median(one.trips for one in seen):.4f}",
            f"{statistics.median(one.per_second for one in seen):,.0f}",
            f"{statistics.median(one.cpu_us for one in seen):.1f}",
            str(max(one.overshoot for one in seen)),
            str(max(one.left_at_first_denial for one in seen)),
            str(max(one.left_at_end for one in seen)),
        )
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
