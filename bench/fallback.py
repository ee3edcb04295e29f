"""What a failed attempt costs: CPU, time, memory, and a thousand streams while a provider dies.

One gateway, three providers. The failing target answers 409 (tried again, but nothing that takes a target out), so
every request has exactly one failed attempt.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from bench.cpu import Account, python_us
from bench.gateway import Running, base, chat_request, spawn_provider
from bench.loadgen import Target, closed, paced
from bench.machine import machine
from bench.processes import Processes
from bench.report import envoy_us, publish
from bench.sheet import Sheet, Spread
from bench.suite import Options
from bench.workloads import PROMPT

_CONNECTIONS = 32
_RATE = 100.0
_CPU_RATE = 250.0  # requests/s that CPU is compared at
_DETECTION = 0.2  # seconds of `timeouts.first_byte` in the arm whose first target hangs
_HANGING = 20  # targets that hang
_MB = 1 << 20
_COLUMNS = ("what", "seen", "figure", "reached")
_PROVIDERS = ("a", "b", "c")
_CHUNKS, _CHUNK_MS = 100, 10
_WORD = re.compile(rb'"delta":\{"content":"([^"]*)"')
_SAID = ("Hello", "from", "the", "fake", "provider,", "which", "makes", "up", "every", "word.")


def _config(ports: dict[str, int]) -> dict[str, Any]:
    config = base(ports["a"])
    config["providers"] = {
        name: {"dialect": "openai", "base_url": f"http://127.0.0.1:{ports[name]}/v1", "api_key": f"key-{name}"}
        for name in _PROVIDERS
    }
    config["providers"]["dead"] = {"dialect": "openai", "base_url": "http://127.0.0.1:9/v1"}

    def three(first: dict[str, Any], **more: Any) -> dict[str, Any]:
        rest = [{"provider": name, "model": "good", "priority": 1} for name in ("b", "c")]
        return {"targets": [first, *rest], "attempts": 3, **more}

    conflict = {"provider": "a", "model": "fake:status=409"}
    config["models"] = {
        "one": {"provider": "b", "model": "good"},
        "three": three({"provider": "a", "model": "good"}),
        "failing": three(conflict),
        "large": three({"provider": "a", "model": "fake:status=409"}),
        "large-one": {"provider": "b", "model": f"fake:size={10 * _MB}"},
        "streams": [{"provider": name, "model": "good"} for name in _PROVIDERS],
    }
    for number in range(_HANGING):  # each on its own, and asked less often than would take it out
        hanging = {"provider": "a", "model": f"fake:hang=true,tag={number}"}
        config["models"][f"hanging-{number}"] = three(hanging, timeouts={"first_byte": _DETECTION})
    config["models"]["large"]["targets"][1]["model"] = f"fake:size={10 * _MB}"
    return config


class _Gateway:
    """A running `headgate up` and its providers."""

    def __init__(self) -> None:
        self.processes = Processes()
        started = {name: spawn_provider(self.processes) for name in _PROVIDERS}
        self.providers = {name: process for name, (_, process) in started.items()}
        self._ports = {name: port for name, (port, _) in started.items()}
        running = Running(self.processes, {**_config(self._ports), "max_body": "32MiB"})
        self.port, self.roles = running.port, running.roles

    def direct(self, model: str, *, chunks: int, delay: int) -> list[Target]:
        """The same streams from each provider, with nothing between."""
        made = self.target(model, stream=True, chunks=chunks, delay=delay)
        return [Target(made.host, port, made.requests, made.events) for port in self._ports.values()]

    def target(self, model: str, *, stream: bool = False, chunks: int = 0, pad: int = 0, delay: int = 0) -> Target:
        """Requests for `model`; `pad` makes the body so many bytes longer."""
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": PROMPT + "x" * pad}]}
        if stream:
            body.update(stream=True, stream_options={"include_usage": True})
        fake = f"chunks={chunks},chunk_delay_ms={delay}" if stream else ""
        return Target("127.0.0.1", self.port, (chat_request(body, fake),), chunks + 4 if stream else 0)


def main(options: Options, folder: Path, console: Console) -> bool:
    """Run it and report. Returns whether a request failed."""
    gateway = _Gateway()
    try:
        rows = asyncio.run(_rows(gateway, options))
    finally:
        gateway.processes.stop()
    notes = [
        f"Medians (lowest-highest) of {options.rounds} rounds of {options.seconds:g} s, in one gateway, in turn. "
        "CPU: user and system, all threads, per request; Python's includes what it makes of Envoy's logs.",
    ]
    failed = any("failed" in row[1] for row in rows)
    shown = Sheet(f"What a failed attempt costs; {machine()}", _COLUMNS, tuple(rows), tuple(notes))
    publish("fallback", shown, {"options": options.as_json(), "rows": rows}, folder, console)
    return failed


async def _rows(gateway: _Gateway, options: Options) -> list[tuple[str, ...]]:
    cpu: dict[str, list[dict[str, float]]] = {"one": [], "three": [], "failing": []}
    delays: dict[str, list[float]] = {"one": [], "failing": []}
    failures = 0
    for _ in track(range(options.rounds), "failed attempts", transient=True):
        for model, found in cpu.items():
            target = gateway.target(model)
            await closed(target, connections=_CONNECTIONS, seconds=0.3)
            # At an equal rate: saturated, the arm that is slower shares less of what a busy loop does together.
            account = Account(gateway.roles)
            load = await paced(target, rate=_CPU_RATE, connections=64, seconds=2 * options.seconds)
            await asyncio.sleep(1.2)  # the logs of the last ones
            found.append(account.us_per(load.done))
            failures += load.failed
        for model, medians in delays.items():
            slow = await paced(gateway.target(model), rate=_RATE, connections=64, seconds=options.seconds)
            medians.append(statistics.median(slow.latencies) * 1e3)
            failures += slow.failed
    delays["hanging"] = [statistics.median(await _hanging(gateway)) * 1e3] * options.rounds
    rows = [*_cpu_rows(cpu), *_delay_rows(delays)]
    rows += [
        await _large(gateway, "large-one", "one attempt"),
        await _large(gateway, "large", "a failed attempt first"),
    ]
    rows.append(await _many_streams(gateway, 100, kill=False))
    rows.append(await _many_streams(gateway, 1000, kill=True))
    if failures:
        rows.append(("requests", f"{failures} failed", "0", "NO"))
    return rows


async def _hanging(gateway: _Gateway) -> list[float]:
    """How long a request takes whose first target hangs, in seconds."""
    seconds = []
    for number in range(_HANGING):
        load = await closed(gateway.target(f"hanging-{number}"), connections=1, seconds=10, count=1)
        seconds += list(load.latencies)
    return seconds


def _cpu_rows(cpu: dict[str, list[dict[str, float]]]) -> list[tuple[str, ...]]:
    def ratio(model: str, part: Any) -> Spread:
        return Spread.of([part(own) / part(alone) for own, alone in zip(cpu[model], cpu["one"], strict=True)])

    rows: list[tuple[str, ...]] = []
    for model, words in (
        ("one", "one target"),
        ("three", "three targets"),
        ("failing", "three targets, one failed attempt"),
    ):
        python = Spread.of([python_us(one) for one in cpu[model]])
        envoy = Spread.of([envoy_us(one) for one in cpu[model]])
        share = ratio(model, python_us)
        figure = "within 1.15" if model == "failing" else "-"
        reached = ("yes" if share.median <= 1.15 else "NO") if model == "failing" else "-"
        rows.append(
            (
                f"CPU per request at {_CPU_RATE:g}/s, {words}",
                f"Python {python:.0f} us ({share:.2f}), Envoy {envoy:.0f} us",
                figure,
                reached,
            )
        )
    return rows


def _delay_rows(delays: dict[str, list[float]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for model, detection, words in (("failing", 0.0, "an answer at once"), ("hanging", _DETECTION, "no answer")):
        added = Spread.of(
            [own - alone - detection * 1e3 for own, alone in zip(delays[model], delays["one"], strict=True)]
        )
        reached = "yes" if added.median < 5 else "NO"
        rows.append(
            (f"failover after {words}, beyond detection, at {_RATE:g}/s (p50)", f"{added:.2f} ms", "5 ms", reached)
        )
    return rows


async def _large(gateway: _Gateway, model: str, words: str) -> tuple[str, ...]:
    """A request of 20 MB and its answer of 10 MB, once; memory before, at most, and afterwards."""
    target = gateway.target(model, pad=20 * _MB - 4096)
    before = _rss(gateway)
    most = dict(before)
    done = asyncio.Event()

    async def watch() -> None:
        while not done.is_set():
            for role, mb in _rss(gateway).items():
                most[role] = max(most[role], mb)
            await asyncio.sleep(0.005)

    watcher = asyncio.create_task(watch())
    started = time.perf_counter()
    load = await closed(target, connections=1, seconds=30, count=1)
    seconds = time.perf_counter() - started
    done.set()
    await watcher
    await asyncio.sleep(3)
    after = _rss(gateway)
    growth = {role: most[role] - before[role] for role in before}
    size = 20.0 if not load.failed else 0.0
    words_seen = (
        f"Envoy +{growth['envoy']:.0f} MB, Python +{growth['python']:.0f} MB, afterwards "
        f"+{after['envoy'] - before['envoy']:.0f} and +{after['python'] - before['python']:.0f}; {seconds:.2f} s"
    )
    if load.failed:
        return (f"20 MB in, 10 MB out, {words}", f"failed: {load.complaint}", "passes", "NO")
    limit = 3 * (size + 10)
    reached = "yes" if max(growth.values()) < limit else "NO"
    return (f"20 MB in, 10 MB out, {words}", words_seen, f"each below {limit:.0f} MB", reached)


def _rss(gateway: _Gateway) -> dict[str, float]:
    return {role: process.memory_info().rss / 1e6 for role, process in gateway.roles.items()}


async def _many_streams(gateway: _Gateway, streams: int, *, kill: bool) -> tuple[str, ...]:
    """Paced streams at once, straight from the providers and through the gateway; one provider killed in the middle."""
    direct = await _gaps(gateway, gateway.direct("good", chunks=_CHUNKS, delay=_CHUNK_MS), streams)
    if kill:
        asyncio.get_running_loop().call_later(0.8, gateway.providers["a"].kill)
    through = await _gaps(gateway, [gateway.target("streams", stream=True, chunks=_CHUNKS, delay=_CHUNK_MS)], streams)
    added = through.p99 - direct.p99
    words = f"{streams} streams at once, {_CHUNK_MS} ms between chunks{', one provider killed' if kill else ''}"
    seen = (
        f"{through.whole} whole, {through.cut} cut when it died, {through.lost} lost, {through.wrong} out of order; "
        f"gap p99 {through.p99:.1f} ms, direct {direct.p99:.1f} ms; {through.late} begun after the death"
    )
    reached = "yes" if not through.lost and not through.wrong and added < 5 else "NO"
    return (words, seen, "none lost, in order; added p99 below 5 ms", reached)


@dataclass(frozen=True, slots=True)
class _Gaps:
    """What became of many streams. `p99` (ms) is of the time between two chunks."""

    whole: int
    cut: int
    lost: int
    wrong: int
    late: int
    p99: float


async def _gaps(gateway: _Gateway, targets: Sequence[Target], streams: int) -> _Gaps:
    clients = [_Stream(targets[number % len(targets)]) for number in range(streams)]
    half = streams // 2

    async def begin(number: int, client: _Stream) -> str:
        # The second half begins while the first is under way, so some begin after a provider has died.
        await asyncio.sleep(number / streams * 0.5 + (1.2 + streams / 1000 if number >= half else 0.0))
        return await client.run()

    outcomes = await asyncio.gather(*(begin(number, client) for number, client in enumerate(clients)))
    gaps = sorted(gap for client in clients for gap in client.gaps)
    p99 = gaps[int(len(gaps) * 0.99)] * 1e3 if gaps else 0.0
    wrong = sum(client.wrong for client in clients)
    return _Gaps(outcomes.count("whole"), outcomes.count("cut"), outcomes.count("lost"), wrong, streams - half, p99)


class _Stream:
    """One client of a paced stream."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.gaps: list[float] = []
        self.wrong = False  # a word is missing, or stands where another should
        self._text = bytearray()

    async def run(self) -> str:
        """`whole`, `cut` (begun, then broken off) or `lost` (never begun)."""
        try:
            reader, writer = await asyncio.open_connection(self._target.host, self._target.port)
            writer.write(self._target.requests[0])
            head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            return "lost"
        if not head.startswith(b"HTTP/1.1 200"):
            writer.close()
            return "lost"
        last, tail = time.perf_counter(), b""
        try:
            while data := await reader.read(65536):
                now = time.perf_counter()
                self.gaps.append(now - last)
                last, tail = now, (tail + data)[-64:]
                self._text += data
                if tail.endswith(b"0\r\n\r\n"):
                    break
        except OSError:
            pass
        writer.close()
        words = [word.decode().strip() for word in _WORD.findall(bytes(self._text))]
        said = [_SAID[number % len(_SAID)] for number in range(len(words))]
        whole = b"[DONE]" in tail
        self.wrong = words != said or (whole and len(words) != _CHUNKS)
        return "whole" if whole else "cut"
