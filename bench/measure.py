"""One measurement of one arm under one workload."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bench.arms import Arm, Upstream
from bench.cpu import Account, rss_mb
from bench.loadgen import Load, closed, paced
from bench.probe import counted, probe
from bench.workloads import Workload

CONNECTIONS = 32
_WARM_SECONDS = 0.3
_SETTLE_SECONDS = 0.8  # in which the last reservation is settled (in process: with the access log)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one round saw; 0 or empty where a workload does not measure it.

    CPU in microseconds per request by process: `cpu_us` when saturated, `paced_cpu_us` at the workload's rate.
    Times in milliseconds, at the workload's rate. RSS in MB. `problems`: what was not as it must be.
    """

    requests_per_second: float = 0.0
    cpu_us: dict[str, float] = field(default_factory=dict)
    paced_cpu_us: dict[str, float] = field(default_factory=dict)
    generator_us: float = 0.0
    provider_us: float = 0.0
    rss_mb: dict[str, float] = field(default_factory=dict)
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    lag_p99_ms: float = 0.0
    failed: int = 0
    late: int = 0
    problems: tuple[str, ...] = ()


async def measure(arm: Arm, upstream: Upstream, workload: Workload, *, seconds: float) -> Figures:
    """Look closely, warm up, saturate, pace, look again. The figures of an arm that fails the first look are empty."""
    before = await asyncio.to_thread(probe, arm, workload)
    if before.problem:
        return Figures(failed=1, problems=(before.problem,))
    target = workload.target(arm.port, model=arm.model, headers=arm.headers)
    if arm.reframes:
        target = replace(target, events=before.events)
    loads: list[Load] = [await closed(target, connections=CONNECTIONS, seconds=_WARM_SECONDS)]
    saturated: dict[str, float] = {}
    generator = provider = rate = 0.0
    if workload.saturate:
        account = Account({**arm.roles, "provider": upstream.process})
        full = await closed(target, connections=CONNECTIONS, seconds=seconds)
        saturated = account.us_per(full.done)
        provider = saturated.pop("provider")
        generator, rate = full.cpu / max(1, full.done) * 1e6, full.done / full.seconds
        loads.append(full)
    at_rate: dict[str, float] = {}
    p50 = p99 = lag = 0.0
    if workload.rate:
        account = Account(arm.roles)
        slow = await paced(target, rate=workload.rate, connections=workload.paced_connections, seconds=seconds)
        at_rate = account.us_per(slow.done)
        p50, p99 = (_percentile(slow.latencies, percent) * 1e3 for percent in (50, 99))
        lag = _percentile(slow.lag, 99) * 1e3
        loads.append(slow)
    await asyncio.sleep(_SETTLE_SECONDS)
    done = sum(load.done for load in loads)
    after = await asyncio.to_thread(probe, arm, workload)
    problems = {after.problem, counted(arm, workload, before, after, done), *(load.complaint for load in loads)} - {""}
    return Figures(
        rate,
        saturated,
        at_rate,
        generator,
        provider,
        rss_mb(arm.roles),
        p50,
        p99,
        lag,
        sum(load.failed for load in loads),
        sum(load.late for load in loads),
        tuple(sorted(problems)),
    )


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else 0.0
