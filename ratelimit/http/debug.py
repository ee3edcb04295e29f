"""HTTP for operators: rules in force, counters, metrics, readiness. Nothing secret; what changes counters is
`ratelimit.http.operator`'s, and for this machine alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import web

from ratelimit.http import rlconfig
from ratelimit.http.exposition import CONTENT_TYPE
from ratelimit.http.operator import DESCRIBED, operator_paths
from ratelimit.http.server import Answer
from ratelimit.operator import Operator
from ratelimit.rules import RuleSet
from ratelimit.standalone.health import Health
from ratelimit.stats import Stats

_LINES_AT_ONCE = 500  # written before decisions have their turn again


@dataclass(frozen=True, slots=True)
class DebugSources:
    """Where the answers come from. `refresh` is called before metrics are shown."""

    rules: Callable[[], RuleSet | None]
    operator: Operator
    stats: Stats
    health: Health
    refresh: Callable[[], None] = lambda: None
    stores: Callable[[], Mapping[str, int]] = dict  # how they are now, whatever the readiness


def debug_paths(sources: DebugSources) -> Mapping[str, Answer]:
    """Every path of the debug server; `/` lists them."""
    described: dict[str, tuple[str, Answer]] = {
        "/livez": ("200 while the process answers", _livez),
        "/metrics": ("metrics in Prometheus' text format", metrics_answer(sources)),
        "/readyz": ("200 when healthy, else 503 and what is missing", _readyz(sources)),
        "/rlconfig": ("print out the currently loaded configuration for debugging", _rlconfig(sources)),
        "/stats": ("print out stats", _stats(sources)),
    }
    for path, answer in operator_paths(sources.operator, sources.rules).items():
        described[path] = (DESCRIBED[path], answer)

    async def index(_request: web.Request) -> web.Response:
        return web.Response(text="".join(f"{path}: {text}\n" for path, (text, _) in sorted(described.items())))

    return {"/": index, **{path: answer for path, (_, answer) in described.items()}}


async def _livez(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _readyz(sources: DebugSources) -> Answer:
    async def readyz(_request: web.Request) -> web.Response:
        health = sources.health
        body = {"ready": health.healthy, "parts": health.parts, "stores": sources.stores()}
        return web.Response(
            body=msgspec.json.encode(body) + b"\n",
            status=200 if health.healthy else 503,
            content_type="application/json",
        )

    return readyz


def _rlconfig(sources: DebugSources) -> Answer:
    async def rlconfig_answer(request: web.Request) -> web.StreamResponse:
        rules = sources.rules()
        found = [] if rules is None else await asyncio.to_thread(rlconfig.lines, rules)
        return await _written(request, (f"{line}\n" for line in found), "text/plain; charset=utf-8")

    return rlconfig_answer


def metrics_answer(sources: DebugSources) -> Answer:
    """What Prometheus scrapes."""

    async def metrics(request: web.Request) -> web.StreamResponse:
        sources.refresh()
        return await _written(request, sources.stats.lines(), CONTENT_TYPE)

    return metrics


def _stats(sources: DebugSources) -> Answer:
    async def stats(request: web.Request) -> web.StreamResponse:
        sources.refresh()
        shown = (": ".join(line.rsplit(" ", 1)) for line in _samples(sources.stats.lines()))
        return await _written(request, shown, "text/plain; charset=utf-8")

    return stats


def _samples(lines: Iterable[str]) -> Iterable[str]:
    return (line for line in lines if not line.startswith("#"))


async def _written(request: web.Request, lines: Iterable[str], content_type: str) -> web.StreamResponse:
    """The lines as a body, a slice at a time: decisions do not wait for all of them."""
    response = web.StreamResponse(headers={"content-type": content_type})
    await response.prepare(request)
    waiting: list[str] = []
    for line in lines:
        waiting.append(line)
        if len(waiting) >= _LINES_AT_ONCE:
            await response.write("".join(waiting).encode())
            waiting.clear()
            await asyncio.sleep(0)
    await response.write("".join(waiting).encode())
    await response.write_eof()
    return response
