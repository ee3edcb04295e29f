"""One service alone behind the least Envoy that needs it: what a decision costs, engine beside engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from bench import envoy, gateway
from bench.arms import Arm, BareEnvoy, Direct, spawn_redis, write_config
from bench.cpu import python_us
from bench.processes import Placement, free_port
from bench.report import added_ms, run_and_write, spread
from bench.suite import Options, Results, Suite
from bench.verdicts import verdict
from bench.workloads import JSON, MODEL, Workload
from extproc.limits import DOMAIN
from headgate.render.layout import EXTPROC_CLUSTER, RATELIMIT_CLUSTER, Layout
from headgate.render.listener import listener
from headgate.render.values import Json, grpc, typed
from headgate.settings import Settings, load_settings

Engine = Literal["native", "grpcio"]
ENGINES: tuple[Engine, ...] = ("native", "grpcio")
_TARGET_MODEL = "another-name-at-the-provider"
# The one thing that the product decides without a body: it answers by itself and routes nothing.
HEADERS_ONLY = Workload("GET /v1/models", method="GET", path="/v1/models", rate=JSON.rate)
_ADDED_P99_MS = 1.5


class ServiceAlone(Arm):
    """`headgate serve --only SERVICE` behind an Envoy with one filter."""

    only: str

    def __init__(self, name: str, engine: Engine, *, redis: bool = False) -> None:
        super().__init__(f"{name} ({engine})")
        self._engine = engine
        self._redis = redis

    def start(self, upstream_port: int, placement: Placement) -> None:
        self.port, admin, folder = free_port(), free_port(), self.processes.folder
        config = gateway.base(
            upstream_port, engine=self._engine, admin=f"127.0.0.1:{admin}", run_dir=str(folder), **self.overlay()
        )
        if self._redis:
            config["store"], self.roles["redis"] = spawn_redis(self.processes, placement)
        path = write_config(folder, config)
        serve = [sys.executable, "-m", "headgate", "serve", "-c", str(path), "--only", self.only]
        self.roles["python"] = self.processes.spawn(serve, placement.gateway)
        self.processes.until_ok(f"http://127.0.0.1:{admin}/readyz")
        settings, _ = load_settings(path, {})
        bootstrap = envoy.minimal(
            self.port, upstream_port, filters=[self.filter(settings)], services=self.service(settings, Layout(folder))
        )
        self.roles["envoy"] = envoy.spawn(self.processes, bootstrap, placement)
        self.processes.until_listening(self.port)

    def overlay(self) -> gateway.Config:
        """What the service's configuration has beyond the base."""
        return {}

    def filter(self, settings: Settings) -> Json:
        """Envoy's filter that asks the service."""
        raise NotImplementedError

    def service(self, settings: Settings, layout: Layout) -> dict[str, str]:
        """The cluster that the filter names, and where the service listens."""
        raise NotImplementedError


class RateLimitAlone(ServiceAlone):
    """The rate-limit service: one descriptor of two entries, counted for every request."""

    only = "ratelimit"
    counts = True

    def filter(self, settings: Settings) -> Json:
        key, limit = (
            {"generic_key": {"descriptor_key": name, "descriptor_value": value}}
            for name, value in (("key", "bench-0"), ("limit", "requests"))
        )
        return typed(
            "envoy.filters.http.ratelimit",
            "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
            domain=DOMAIN,
            timeout="2s",
            failure_mode_deny=True,
            rate_limit_service={"transport_api_version": "V3", "grpc_service": grpc(RATELIMIT_CLUSTER, 2)},
            rate_limits=[{"actions": [key, limit]}],
        )

    def service(self, settings: Settings, layout: Layout) -> dict[str, str]:
        return {RATELIMIT_CLUSTER: layout.ratelimit(settings)}


class ExtProcAlone(ServiceAlone):
    """The ext_proc service with the product's own filter configuration. The body is parsed, its model rewritten."""

    only = "extproc"
    target_model = _TARGET_MODEL

    def overlay(self) -> gateway.Config:
        # Nobody reserves or settles here; with an embedded store nobody could.
        return {"models": {MODEL: {"model": _TARGET_MODEL}}, "limits": {"settle": "call"}}

    def filter(self, settings: Settings) -> Json:
        whole = listener(settings, route_source={}, certificate_source=None)
        manager = whole["filter_chains"][0]["filters"][0]["typed_config"]
        found: Json = next(one for one in manager["http_filters"] if one["name"] == "envoy.filters.http.ext_proc")
        return found

    def service(self, settings: Settings, layout: Layout) -> dict[str, str]:
        return {EXTPROC_CLUSTER: layout.extproc(settings)}


class ExtProcHeaders(ExtProcAlone):
    """The same, for what is decided from the headers alone."""

    answers_itself = True


_RLS, _RLS_REDIS = "ratelimit", "ratelimit on Redis"
_HEADERS, _BODY = "ext_proc headers only", "ext_proc 2 KB body rewritten"


def suite() -> Suite:
    """`python -m bench services`."""
    cells: list[tuple[Arm, tuple[Workload, ...]]] = [
        (Direct(), (JSON, HEADERS_ONLY)),
        (BareEnvoy(), (JSON, HEADERS_ONLY)),
    ]
    for engine in ENGINES:
        cells += [
            (RateLimitAlone(_RLS, engine), (JSON,)),
            (RateLimitAlone(_RLS_REDIS, engine, redis=True), (JSON,)),
            (ExtProcAlone(_BODY, engine), (JSON,)),
            (ExtProcHeaders(_HEADERS, engine), (HEADERS_ONLY,)),
        ]
    return Suite("services", "One service alone, 32 connections", cells, _verdicts)


def main(options: Options, folder: Path, console: Console) -> bool:
    """Run it and report. Returns whether something failed."""
    return run_and_write(suite(), options, folder, console)


def _verdicts(results: Results) -> list[str]:
    bounds: Sequence[tuple[str, Workload, float, float]] = (
        (_RLS, JSON, 20, 12),
        (_RLS_REDIS, JSON, 35, 0),
        (_HEADERS, HEADERS_ONLY, 35, 10),
        (_BODY, JSON, 65, 8),
    )
    found = []
    for name, workload, most_us, times in bounds:
        python = {
            engine: spread(rounds, lambda one: python_us(one.cpu_us)).median
            for engine in ENGINES
            if (rounds := results.rounds.get((workload.name, f"{name} ({engine})")))
        }
        if "native" not in python:
            continue
        found.append(verdict(f"{name}: Python per decision", python["native"], most_us, "us"))
        if times and "grpcio" in python and python["native"]:
            ratio = python["grpcio"] / python["native"]
            found.append(verdict(f"{name}: below grpcio", ratio, times, "times", at_least=True))
        for reference in ("direct", "bare envoy"):
            rounds = results.rounds[workload.name, f"{name} (native)"]
            _, p99 = added_ms(rounds, results.rounds[workload.name, reference])
            what = f"{name}: added p99 over {reference} at {workload.rate:g} requests/s"
            found.append(verdict(what, p99, _ADDED_P99_MS, "ms", digits=2))
    found.append(
        "The product routes nothing from the headers alone: `headers only` is GET /v1/models, authenticated and "
        "answered by ext_proc itself, so its requests/s do not compare with an arm that asks the provider."
    )
    return found
