"""Fills the embedded store with distinct entries, and says what that takes of memory and time.

python -m tests.extproc.cache_store.filling [entries] [max bytes] [bytes of a value]
"""

from __future__ import annotations

import gc
import hashlib
import sys
import time
import tracemalloc
from pathlib import Path

from extproc.cache.store import MemoryStore


def fill(entries: int, max_bytes: int, size: int) -> tuple[int, int, MemoryStore]:
    """Bytes that Python has given out more than before: at the end, and at most while it filled."""
    tags = [["model:gpt-4o", f"tenant:team-{number}"] for number in range(50)]
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    store = MemoryStore(max_bytes, time.monotonic)
    for number in range(entries):
        store.put(hashlib.sha256(b"%d" % number).digest(), bytes(size + number % 7), 3_600, [*tags[number % 50]])
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return after - before, peak - before, store


def resident() -> int:
    """Bytes of this process that are in memory."""
    with Path("/proc/self/statm").open() as statm:
        return int(statm.read().split()[1]) * 4_096


def main(entries: int = 1_000_000, max_bytes: int = 64 << 20, size: int = 200) -> None:
    keys = [hashlib.sha256(b"%d" % number).digest() for number in range(entries)]
    before = resident()
    store = MemoryStore(max_bytes, time.monotonic)
    began = time.perf_counter()
    for number, name in enumerate(keys):
        store.put(name, bytes(size), 3_600, ("model:gpt-4o", f"tenant:team-{number % 50}"))
    put = (time.perf_counter() - began) / entries
    stats = store.stats()
    print(f"{entries} put: {stats.entries} stay, {stats.bytes} bytes counted of {max_bytes}")
    print(f"resident: {resident() - before} bytes more than before")
    there = [name for name in keys if name in store._small or name in store._main]
    began = time.perf_counter()
    for name in there:
        store.get(name)
    get = (time.perf_counter() - began) / len(there)
    began = time.perf_counter()
    for name in keys[: len(there)]:
        store.get(name)
    missed = (time.perf_counter() - began) / len(there)
    print(f"put {put * 1e6:.2f} us, get {get * 1e6:.2f} us when it is there, {missed * 1e6:.2f} us when it is not")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
