"""What the cache costs and saves: a hit, a miss, a capture, and a large answer through Redis."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.arms import BareEnvoy, spawn_redis
from bench.cpu import Account, python_us
from bench.gateway import Running, base, chat_request, spawn_provider
from bench.loadgen import Target, closed, paced
from bench.machine import machine
from bench.processes import FLOATING, Processes
from bench.report import envoy_us, publish
from bench.sheet import Sheet, Spread
from bench.suite import Options
from bench.workloads import PROMPT

_CONNECTIONS = 32
_RATE = 200.0
_CHUNKS, _CHUNK_MS = 200, 5
_STREAMS = 20
_QUESTIONS = 2_000  # more than what a process remembers of earlier ones
_MOST_MISSES = 5_000  # a second
_COLUMNS = ("what", "seen", "figure", "reached")


class _Gateway:
    """A running `headgate up` with one model that has a cache and one that has none."""

    def __init__(self, *, redis: bool = False) -> None:
        self.processes = Processes()
        store = spawn_redis(self.processes, FLOATING)[0] if redis else "memory://"
        upstream, _ = spawn_provider(self.processes)
        config = base(upstream)
        cache = {"max_temperature": None, "max_answer": "4MiB"}
        config["models"] = {
            "plain": {"provider": "fake", "model": "good"},
            "cached": {"targets": [{"provider": "fake", "model": "good"}], "cache": cache},
            "large": {"targets": [{"provider": "fake", "model": "fake:size=100000"}], "cache": cache},
        }
        running = Running(self.processes, {**config, "cache": {"store": store}})
        self.port, self.roles = running.port, running.roles
        self._bare = BareEnvoy()
        self._bare.start(upstream, FLOATING)

    def stop(self) -> None:
        """End everything."""
        self._bare.stop()
        self.processes.stop()

    def bare_target(self) -> Target:
        """The plain model's requests to an Envoy with a router and nothing else, before the same provider."""
        return Target("127.0.0.1", self._bare.port, (self._request("good", 0, 0, False),), 0)

    def target(self, model: str, *, bodies: int = 1, first: int = 0, size: int = 0, stream: bool = False) -> Target:
        """Requests for `model`, `bodies` different ones from number `first` on; `size` pads the answer."""
        return Target(
            "127.0.0.1",
            self.port,
            tuple(self._request(model, number, size, stream) for number in range(first, first + bodies)),
            _CHUNKS + 4 if stream else 0,
        )

    @staticmethod
    def _request(model: str, number: int, size: int, stream: bool) -> bytes:
        body: dict[str, Any] = {"model": model, "seed": number, "messages": [{"role": "user", "content": PROMPT}]}
        if stream:
            body.update(stream=True, stream_options={"include_usage": True})
        fake = f"size={size or 2048}" if not stream else f"chunks={_CHUNKS},chunk_delay_ms={_CHUNK_MS}"
        return chat_request(body, fake)


def main(options: Options, folder: Path, console: Console) -> bool:
    """Run it and report. Returns whether a request failed."""
    gateway = _Gateway()
    try:
        rows = asyncio.run(_rows(gateway, options))
    finally:
        gateway.stop()
    gateway = _Gateway(redis=True)
    try:
        rows.append(asyncio.run(_large(gateway, options)))
    finally:
        gateway.stop()
    notes = [
        f"Medians (lowest-highest) of {options.rounds} rounds of {options.seconds:g} s. CPU: user and system, all "
        "threads, per request. Answers of 2 KB unless said otherwise; a key with limits on requests and tokens.",
    ]
    shown = Sheet(f"The cache; {machine()}", _COLUMNS, tuple(rows), tuple(notes))
    publish("cache", shown, {"options": options.as_json(), "rows": rows}, folder, console)
    return any("failed" in row[1] for row in rows)


async def _rows(gateway: _Gateway, options: Options) -> list[tuple[str, ...]]:
    hit = gateway.target("cached")
    await closed(hit, connections=1, seconds=5, count=3)
    p50: list[float] = []
    rates: list[float] = []
    python: list[float] = []
    envoy: list[float] = []
    many_python: list[float] = []
    misses: dict[str, tuple[list[float], list[float]]] = {"cached": ([], []), "plain": ([], [])}
    full: dict[str, list[float]] = {"cached": [], "plain": []}
    bare: list[float] = []
    asked = _QUESTIONS
    several = gateway.target("cached", bodies=_QUESTIONS, first=1)
    await closed(several, connections=_CONNECTIONS, seconds=30, count=_QUESTIONS)
    for _ in range(options.rounds):
        slow = await paced(hit, rate=_RATE, connections=32, seconds=options.seconds)
        p50.append(statistics.median(slow.latencies) * 1e3)
        slow = await paced(gateway.bare_target(), rate=_RATE, connections=32, seconds=options.seconds)
        bare.append(statistics.median(slow.latencies) * 1e3)
        account = Account(gateway.roles)
        load = await closed(hit, connections=_CONNECTIONS, seconds=options.seconds)
        used = account.us_per(load.done)
        rates.append(load.done / load.seconds)
        python.append(python_us(used))
        envoy.append(envoy_us(used))
        account = Account(gateway.roles)
        load = await closed(several, connections=_CONNECTIONS, seconds=options.seconds)
        many_python.append(python_us(account.us_per(load.done)))
        for model, (found, by_envoy) in misses.items():
            many = int(_RATE * options.seconds * 2) + 200
            fresh = gateway.target(model, bodies=many, first=1 + asked)
            asked += many
            account = Account(gateway.roles)
            slow = await paced(fresh, rate=_RATE, connections=32, seconds=2 * options.seconds)
            await asyncio.sleep(1.2)
            used = account.us_per(slow.done)
            found.append(python_us(used))
            by_envoy.append(envoy_us(used))
            many = int(_MOST_MISSES * options.seconds)
            fresh = gateway.target(model, bodies=many, first=1 + asked)
            asked += many
            account = Account(gateway.roles)
            load = await closed(fresh, connections=_CONNECTIONS, seconds=options.seconds, count=many)
            await asyncio.sleep(1.2)
            full[model].append(python_us(account.us_per(load.done)))
    per_core = [1e6 / one for one in python]
    (kept, kept_envoy), (plain, plain_envoy) = misses.values()
    more = [own - alone for own, alone in zip(kept, plain, strict=True)]
    more_envoy = [own - alone for own, alone in zip(kept_envoy, plain_envoy, strict=True)]
    more_full = [own - alone for own, alone in zip(full["cached"], full["plain"], strict=True)]
    added = [own - alone for own, alone in zip(p50, bare, strict=True)]
    rows: list[tuple[str, ...]] = [
        (
            f"a hit at {_RATE:g}/s, p50, over a bare Envoy that asks the provider",
            f"{Spread.of(added):.2f} ms ({Spread.of(p50):.2f} and {Spread.of(bare):.2f})",
            "1 ms",
            _yes(statistics.median(added) < 1),
        ),
        (
            "hits, saturated",
            f"{Spread.of(rates):,.0f}/s; Python {Spread.of(python):.0f} us, Envoy {Spread.of(envoy):.0f} us; "
            f"{Spread.of(per_core):,.0f} per sidecar core",
            "5,000 per sidecar core",
            _yes(statistics.median(per_core) >= 5000),
        ),
        (
            f"the same, {_QUESTIONS:,} questions in turn",
            f"Python {Spread.of(many_python):.0f} us",
            "-",
            "-",
        ),
        (
            f"a miss at {_RATE:g}/s, Python over a model without cache",
            f"{Spread.of(more):.0f} us ({Spread.of(kept):.0f} and {Spread.of(plain):.0f}); "
            f"Envoy {Spread.of(more_envoy):.0f} us ({Spread.of(kept_envoy):.0f} and {Spread.of(plain_envoy):.0f})",
            "60 us",
            _yes(statistics.median(more) < 60),
        ),
        (
            "the same, saturated",
            f"{Spread.of(more_full):.0f} us ({Spread.of(full['cached']):.0f} and {Spread.of(full['plain']):.0f})",
            "60 us",
            _yes(statistics.median(more_full) < 60),
        ),
    ]
    rows.append(await _capture(gateway))
    return rows


async def _capture(gateway: _Gateway) -> tuple[str, ...]:
    """How long a paced stream takes while it is captured, and when it is not, in turn."""
    seconds: dict[str, list[float]] = {"cached": [], "plain": []}
    for number in range(_STREAMS):
        for model, found in seconds.items():
            target = gateway.target(model, first=1_000_000 + number, stream=True)
            load = await closed(target, connections=1, seconds=30, count=1)
            found += list(load.latencies)
    captured, alone = (statistics.median(found) for found in seconds.values())
    added = captured / alone - 1
    seen = f"{captured * 1e3:.0f} ms captured, {alone * 1e3:.0f} ms not: {added:+.2%}"
    return (f"a stream of {_CHUNKS} chunks, {_CHUNK_MS} ms between them", seen, "+2 %", _yes(added < 0.02))


async def _large(gateway: _Gateway, options: Options) -> tuple[str, ...]:
    target = gateway.target("large", size=100_000)
    await closed(target, connections=1, seconds=5, count=3)
    await asyncio.sleep(0.5)
    slow = await paced(target, rate=50, connections=16, seconds=2 * options.seconds)
    p50 = statistics.median(slow.latencies) * 1e3
    seen = f"{p50:.2f} ms" if not slow.failed else f"{slow.failed} failed"
    return ("a hit of 100 KB through Redis at 50/s, p50", seen, "3 ms", _yes(p50 < 3))


def _yes(reached: bool) -> str:
    return "yes" if reached else "NO"
