"""What a request and an open stream cost, for sizing: memory per stream, Redis' work per request.

Streams are opened, deliver their first words, and then stay silent: what grows is what each of them holds. Redis' own
counters say what a request costs it.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import psutil
from redis import Redis
from rich.console import Console
from rich.progress import track

from bench.arms import spawn_redis
from bench.gateway import Running, base, chat_request, native, spawn_provider
from bench.loadgen import Target, closed, paced
from bench.machine import machine
from bench.processes import FLOATING, Processes
from bench.report import publish
from bench.sheet import Sheet
from bench.suite import Options
from bench.workloads import MODEL, PROMPT

_STEPS = (500, 1000, 2000, 3000)  # streams open at once
_TOPOLOGIES = ("envoy", "in_process")
_COLUMNS = ("limits", "what", "seen")


def main(options: Options, folder: Path, console: Console) -> bool:
    """Run it and report. Returns whether a request failed."""
    rows: list[tuple[str, ...]] = []
    failed = 0
    for enforce in track(_TOPOLOGIES, "scaling", transient=True):
        found, failures = asyncio.run(_streams(enforce))
        rows += found
        failed += failures
        found, failures = asyncio.run(_redis(enforce, options))
        rows += found
        failed += failures
    notes = (
        "A stream: 2 KB chat request, HTTP/1.1 on both sides, a connection each, its first words out, then silent. "
        "Growth by the least squares over the steps. Redis: a key with limits on requests and tokens.",
    )
    shown = Sheet(f"What a request and a stream cost; {machine()}", _COLUMNS, tuple(rows), notes)
    publish("scaling", shown, {"options": options.as_json(), "rows": rows}, folder, console)
    return failed > 0


async def _streams(enforce: str) -> tuple[list[tuple[str, ...]], int]:
    processes = Processes()
    clients: list[_Open] = []
    try:
        port, _ = spawn_provider(processes)
        running = Running(processes, base(port, **native(enforce)))
        body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
        request = chat_request(body, "chunks=4,chunk_delay_ms=600000")
        points: dict[str, list[tuple[int, float]]] = {role: [] for role in running.roles}
        # The first ones fill what is kept for all: buffers, thread stacks, caches.
        for _ in range(200):
            clients.append(await _Open.begin(running.port, request))
        for step in _STEPS:
            while len(clients) < step:
                clients.append(await _Open.begin(running.port, request))
            await asyncio.sleep(2.5)
            for role, process in running.roles.items():
                points[role].append((step, process.memory_info().rss / 1024))
        lost = sum(not one.open for one in clients)
        for one in clients:
            one.close()
        rows: list[tuple[str, ...]] = [
            (
                enforce,
                f"memory of {role} per open stream ({_STEPS[0]} to {_STEPS[-1]})",
                f"{_slope(seen):.1f} KiB",
            )
            for role, seen in points.items()
        ]
        return rows, lost
    finally:
        processes.stop()


def _slope(points: list[tuple[int, float]]) -> float:
    """By how much the second grows with the first (least squares)."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


class _Open:
    """A stream that has begun."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def begin(cls, port: int, request: bytes) -> _Open:
        """Ask, and read up to the first event. Raises `RuntimeError`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"a stream did not begin: {head[:80]!r}")
        await reader.readuntil(b"data: ")
        return cls(reader, writer)

    @property
    def open(self) -> bool:
        """Whether it is still under way."""
        return not self._reader.at_eof()

    def close(self) -> None:
        """Leave."""
        with contextlib.suppress(OSError):
            self._writer.close()


async def _redis(enforce: str, options: Options) -> tuple[list[tuple[str, ...]], int]:
    processes = Processes()
    try:
        port, _ = spawn_provider(processes)
        url, redis = spawn_redis(processes, FLOATING)
        running = Running(processes, base(port, store=url, **native(enforce)))
        body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
        target = Target("127.0.0.1", running.port, (chat_request(body, ""),))
        await closed(target, connections=16, seconds=0.5)
        await asyncio.sleep(1.5)
        before = _counters(url, redis)
        load = await paced(target, rate=200.0, connections=64, seconds=4 * options.seconds)
        await asyncio.sleep(1.5)  # what is settled late
        after = _counters(url, redis)
        each = {name: (after[name] - before[name]) / max(1, load.done) for name in before}
        rows: list[tuple[str, ...]] = [
            (enforce, "Redis: calls per request", f"{each['calls']:.2f}"),
            (enforce, "Redis: bytes per request, in and out", f"{each['in']:.0f} + {each['out']:.0f}"),
            (enforce, "Redis: CPU per request at 200/s", f"{each['cpu'] * 1e6:.0f} us"),
        ]
        return rows, load.failed
    finally:
        processes.stop()


def _counters(url: str, redis: psutil.Process) -> dict[str, float]:
    """What Redis has done so far. Our own look at it costs a call or two."""
    with Redis.from_url(url) as client:
        stats: dict[str, Any] = client.info("stats")
        commands: dict[str, Any] = client.info("commandstats")
    times = redis.cpu_times()
    # What a script calls inside counts there, too: only what was sent is counted.
    sent = ("cmdstat_evalsha", "cmdstat_eval")
    return {
        "calls": float(sum(commands.get(name, {}).get("calls", 0) for name in sent)),
        "in": float(stats["total_net_input_bytes"]),
        "out": float(stats["total_net_output_bytes"]),
        "cpu": float(times.user + times.system),
    }
