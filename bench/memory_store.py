"""`python -m bench.memory_store`: how much memory the embedded store takes, and that it stops growing.

First the bytes of a counter over those of its key, by algorithm: as the process sees them (RSS, a process of its own
for each) and as Python's objects add up (`sys.getsizeof`, containers included). Then many distinct keys, each seen
once: with lives that end, where what has expired makes room, and with lives that do not, where the store's bound does.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple, TypeVar

import psutil
from rich.console import Console
from rich.table import Table

from bench.machine import machine
from ratelimit.rules import Algorithm
from ratelimit.storage.base import Action, Operation, Shape
from ratelimit.storage.memory import MemoryStore

NOON = 1_700_000_040
_STEPS = 10  # samples of the growing store
_BOUND = 1_000_000
T = TypeVar("T")


class Density(NamedTuple):
    """Bytes of a counter over its key's, and microseconds of its first decision."""

    rss: float
    objects: float
    microseconds: float


class Growth(NamedTuple):
    """After so many distinct keys: counters held, evicted, and the process' MB."""

    keys: int
    held: int
    evicted: int
    rss_mb: float


def operation(key: str, algorithm: Algorithm, seconds: int) -> Operation:
    """A first call of 1,000 hits, of tokens say."""
    shape = None if algorithm is Algorithm.FIXED_WINDOW else Shape(algorithm, seconds, 10**6)
    return Operation(key, Action.ADD, 1_000, 10**6, seconds, shape, NOON)


def density(algorithm: Algorithm, count: int) -> Density:
    """Fill a store with so many keys."""
    store = MemoryStore(max_counters=2 * count)
    keys = [f"{{tenants_key_team-{number:07}}}_requests" for number in range(count)]
    # Values differ, as they do in life: not the same small numbers that Python keeps anyway.
    gc.collect()
    before, started = rss(), time.perf_counter()
    for number, key in enumerate(keys):
        store.apply([operation(key, algorithm, 3600)._replace(hits=1_000 + number % 1_000)], NOON + number / 1e6)
    taken = time.perf_counter() - started
    gc.collect()
    grown = rss() - before
    assert len(store) == count
    return Density(grown / count, objects(store) / count, taken / count * 1e6)


def objects(store: MemoryStore) -> int:
    """The bytes of every object that the store holds, without its keys."""
    expiries = store._expiries
    held: list[object] = [store._counters, store._logs, expiries.seconds, expiries._keys]
    total = sum(map(sys.getsizeof, held))
    total += sum(map(sys.getsizeof, store._counters.values()))
    total += sum(map(sys.getsizeof, store._logs.values()))
    return total + sum(sys.getsizeof(keys) for keys in expiries._keys.values())


def growth(algorithm: Algorithm, count: int, seconds: int) -> list[Growth]:
    """So many distinct keys, 10,000 a second, each for a window of so many seconds."""
    store, samples = MemoryStore(max_counters=_BOUND), []
    for number in range(1, count + 1):
        store.apply([operation(f"{{tenants_ip_{number:010}}}_requests", algorithm, seconds)], NOON + number / 10_000)
        if number % (count // _STEPS) == 0:
            samples.append(Growth(number, len(store), store.evicted, rss() / 2**20))
    return samples


def rss() -> int:
    """This process' resident bytes."""
    return int(psutil.Process().memory_info().rss)


def apart(work: Callable[..., T], *arguments: object) -> T:
    """Do it in a process of its own, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def main() -> int:
    """Measure and print; the exit status is 1 when a counter takes 200 bytes, or a store outgrows its bound."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory_store", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000, help="of each algorithm's store")
    parser.add_argument("--distinct", type=int, default=10_000_000, help="keys of the growing stores")
    arguments = parser.parse_args()
    console, fine = Console(width=110), True
    table = Table(title=f"Bytes of a counter over its key's, {arguments.keys:,} keys; {machine()}")
    for column in ("algorithm", "RSS", "objects", "us, first decision"):
        table.add_column(column, justify="left" if column == "algorithm" else "right")
    for algorithm in Algorithm:
        seen = apart(density, algorithm, arguments.keys)
        fine = fine and seen.rss < 200
        table.add_row(algorithm.value, f"{seen.rss:.0f}", f"{seen.objects:.0f}", f"{seen.microseconds:.1f}")
    console.print(table)
    lives = ((Algorithm.FIXED_WINDOW, 40), (Algorithm.FIXED_WINDOW, 86_400), (Algorithm.GCRA, 3_600))
    for algorithm, seconds in lives:
        samples = apart(growth, algorithm, arguments.distinct, seconds)
        table = Table(title=f"Distinct keys, 10,000 a second, {algorithm.value} of {seconds:,} s, bound {_BOUND:,}")
        for column in ("keys seen", "held", "evicted", "process, MB"):
            table.add_column(column, justify="right")
        for one in samples:
            table.add_row(f"{one.keys:,}", f"{one.held:,}", f"{one.evicted:,}", f"{one.rss_mb:.0f}")
            fine = fine and one.held <= _BOUND
        fine = fine and samples[-1].rss_mb < 1.3 * max(one.rss_mb for one in samples[: len(samples) // 2])
        console.print(table)
    return int(not fine)


if __name__ == "__main__":
    raise SystemExit(main())
