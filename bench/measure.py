"""One measurement of one arm under one workload."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass

import psutil

from bench.arms import KEY, Arm
from bench.loadgen import Target, closed, paced

CONNECTIONS = 32
PACED_RATE = 200.0
PACED_CONNECTIONS = 16
PROMPT = "word " * 400  # about 2 KB


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of request."""

    name: str
    stream: bool

    def request(self, arm: Arm) -> Target:
        body = {
            "model": "bench",
            "max_tokens": 100,
            "stream": self.stream,
            "messages": [{"role": "user", "content": PROMPT}],
        }
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        raw = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{arm.port}\r\nauthorization: Bearer {KEY}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
        )
        return Target("127.0.0.1", arm.port, head.encode() + raw)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one round saw. CPU in microseconds per request by process, times in milliseconds, RSS in MB."""

    requests_per_second: float
    cpu_us: dict[str, float]
    rss_mb: dict[str, float]
    p50_ms: float
    p99_ms: float
    failed: int
    late: int


async def measure(arm: Arm, workload: Workload, *, seconds: float) -> Figures:
    """Warm up, then saturate, then pace."""
    target = workload.request(arm)
    await closed(target, connections=CONNECTIONS, seconds=min(1.0, seconds))
    before = {role: _cpu(process) for role, process in arm.roles.items()}
    full = await closed(target, connections=CONNECTIONS, seconds=seconds)
    used = {role: (_cpu(process) - before[role]) / max(1, full.done) * 1e6 for role, process in arm.roles.items()}
    slow = await paced(target, rate=PACED_RATE, connections=PACED_CONNECTIONS, seconds=seconds)
    cut = statistics.quantiles(slow.latencies, n=100)
    return Figures(
        full.done / full.seconds,
        used,
        {role: process.memory_info().rss / 1e6 for role, process in arm.roles.items()},
        cut[49] * 1e3,
        cut[98] * 1e3,
        full.failed + slow.failed,
        slow.late,
    )


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
