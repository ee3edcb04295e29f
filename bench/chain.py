"""The whole chain, in every way it can be set up, beside no gateway and a bare Envoy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench.arms import BareEnvoy, Direct, Headgate
from bench.cpu import python_us
from bench.gateway import native
from bench.measure import Figures
from bench.report import added_ms, run_and_write, spread
from bench.suite import Options, Results, Suite
from bench.verdicts import verdict
from bench.workloads import BURST_50, BURST_500, JSON, Workload

KEYS = 1_000  # in every configuration, used by one workload
MANY_KEYS = replace(JSON, name=f"JSON, {KEYS:,} keys in turn", keys=KEYS, rate=0.0)
PACED_50 = Workload("50 chunks, 10 ms apart", stream=True, chunk_delay_ms=10, saturate=False, rate=300.0)

NATIVE_ENVOY = "headgate native (limits by Envoy)"
NATIVE_IN_PROCESS = "headgate native (limits in process)"
_ADDED_P99_MS = 1.5


def gateways() -> list[Headgate]:
    """Headgate in both topologies, as the peers are measured beside it."""
    return [
        Headgate(NATIVE_ENVOY, native("envoy"), keys=KEYS),
        Headgate(NATIVE_IN_PROCESS, native("in_process"), keys=KEYS),
    ]


def suite() -> Suite:
    """`python -m bench chain`."""
    arms = [
        Direct(),
        BareEnvoy(),
        Headgate("headgate grpcio (limits by Envoy)", {**native("envoy"), "engine": "grpcio"}, keys=KEYS),
        *gateways(),
        Headgate(f"{NATIVE_ENVOY} on Redis", native("envoy"), redis=True, keys=KEYS),
        Headgate(f"{NATIVE_IN_PROCESS} on Redis", native("in_process"), redis=True, keys=KEYS),
    ]
    workloads = (JSON, MANY_KEYS, BURST_50, BURST_500, PACED_50)
    return Suite("chain", "Whole chain, 32 connections", [(arm, workloads) for arm in arms], _verdicts)


def main(options: Options, folder: Path, console: Console) -> bool:
    """Run it and report. Returns whether something failed."""
    return run_and_write(suite(), options, folder, console)


def _verdicts(results: Results) -> list[str]:
    found = []
    for arm in dict.fromkeys(name for _, name in results.rounds if name.startswith("headgate native")):
        for reference in ("direct", "bare envoy"):
            _, p99 = added_ms(results.rounds[JSON.name, arm], results.rounds[JSON.name, reference])
            what = f"{arm}: added p99 over {reference} at {JSON.rate:g} requests/s"
            found.append(verdict(what, p99, _ADDED_P99_MS, "ms", digits=2))
        one, many = (spread(results.rounds[name, arm], _python).median for name in (JSON.name, MANY_KEYS.name))
        if one:
            found.append(f"{arm}: with {KEYS:,} keys in turn, {many / one:.2f} of the Python CPU of one hot key")
    return found


def _python(figures: Figures) -> float:
    return python_us(figures.cpu_us)
