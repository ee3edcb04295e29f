"""The rate-limit service as a whole program: what an `Environment` describes, from the first file to the last call.

    HTTP up (unhealthy) -> rules come -> gRPC up -> healthy once the store has answered
    SIGTERM: unhealthy at once, running calls get their grace, then everything closes
    SIGHUP:  rules are read again

Unlike envoyproxy/ratelimit it starts without a store or without rules, says that it is not healthy, and is when they
come.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from ratelimit.description import describe
from ratelimit.http.api import api_paths
from ratelimit.http.debug import DebugSources, debug_paths, metrics_answer
from ratelimit.http.server import Answer, HttpServer
from ratelimit.limiter import Limiter
from ratelimit.observed import observed
from ratelimit.operator import Operator
from ratelimit.presenter import presenter
from ratelimit.quota.server import quota_service
from ratelimit.rules import RuleSet
from ratelimit.server import rate_limit_service
from ratelimit.sources import Source
from ratelimit.sources.directory import Directory, DirectorySource
from ratelimit.sources.path import PathSource
from ratelimit.sources.xds import ManagementServer, XdsSource
from ratelimit.standalone import health as parts
from ratelimit.standalone.environment import Environment
from ratelimit.standalone.health import Health
from ratelimit.standalone.stores import OpenStores
from ratelimit.stats import Stats
from sidecar import logs
from sidecar.errors import ConfigError, Problem, StoreError
from sidecar.lifecycle import keep_what_is_loaded
from sidecar.reload import Current
from sidecar.server import Engine, GrpcServer

HEALTH_NAME = "ratelimit"  # what the gRPC health service answers for, besides the service's own name
_PROBE_EVERY = 1.0  # seconds

_log = structlog.get_logger("ratelimit")


async def serve(environment: Environment, *, engine: Engine = "native", grace: float = 10.0) -> None:
    """Serve until SIGTERM or SIGINT. `grace` are the seconds that running calls then get.

    Raises `ConfigError` when an address is taken, a certificate cannot be used, or the rules that the command line
    names cannot be read at the start.
    """
    logs.configure(environment.log_level, environment.log_format)
    for warning in environment.warnings:
        _log.warning("not_served", what=warning)
    stopping = _signals()
    stores = OpenStores(environment.stores)
    try:
        await _Service(environment, stores, engine, grace).run(stopping)
    finally:
        await stores.store.close()


def _signals() -> asyncio.Event:
    """Set when the process is told to stop."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


def _source(rules: Directory | ManagementServer | Path) -> Source:
    if isinstance(rules, Path):
        return PathSource(rules)
    return DirectorySource(rules) if isinstance(rules, Directory) else XdsSource(rules)


class _Service:
    def __init__(self, environment: Environment, stores: OpenStores, engine: Engine, grace: float) -> None:
        self._environment = environment
        self._stores = stores
        self._grace = grace
        self._rules: Current[RuleSet | None] = Current(None)
        self._first = asyncio.Event()  # rules have come, or have failed to
        self._refused: ConfigError | None = None
        self._source = _source(environment.rules)
        self._stats = Stats(environment.options.near_ratio)
        self._health = Health(
            {parts.STORE: False, parts.RULES: self._healthy_without_rules, parts.RUNNING: True}, self._tell
        )
        options = environment.options
        limiter = Limiter(stores.store, time.time, self._stats, options=options)
        service = rate_limit_service(
            limiter, self._rules.get, presenter(options), describe=describe if options.metadata else None
        )
        self._operator = Operator(stores.store, time.time, options)
        quotas = quota_service(self._operator, self._rules.get)
        self._server = GrpcServer(
            [observed(service, self._stats), quotas],
            listen=environment.listen,
            engine=engine,
            options=environment.server,
            health_names=(HEALTH_NAME,),
            ready=False,
        )
        self._http = self._http_servers(api_paths(service, self._health, self._stats))

    @property
    def _healthy_without_rules(self) -> bool:
        return not (self._environment.rules_first or self._environment.needs_domain)

    def _http_servers(self, api: Mapping[str, Answer]) -> list[HttpServer]:
        http = self._environment.http
        sources = DebugSources(
            self._rules.get, self._operator, self._stats, self._health, self._refresh, lambda: self._stores.state
        )
        servers = [
            HttpServer("PORT", http.api, api),
            HttpServer("DEBUG_PORT", http.debug, debug_paths(sources)),
            HttpServer("PROMETHEUS_ADDR", http.metrics, {http.metrics_path: metrics_answer(sources)}),
        ]
        return [server for server in servers if server.wanted]

    async def run(self, stopping: asyncio.Event) -> None:
        """Everything, from the start to the end."""
        async with contextlib.AsyncExitStack() as stack:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._source.reload)
            for server in self._http:
                await server.start()
                stack.push_async_callback(server.stop)
            await stack.enter_async_context(_running(self._follow(), self._probe()))
            if self._environment.rules_first:
                await _first_of(self._first, stopping)
                if self._fatal and self._refused is not None:
                    raise self._refused
            if not stopping.is_set():
                await self._serve(stopping)

    async def _serve(self, stopping: asyncio.Event) -> None:
        try:
            await self._server.start()
        except ConfigError as error:
            raise ConfigError([_named(problem, self._environment.listen) for problem in error.problems]) from error
        keep_what_is_loaded()
        http = {server.name: server.address for server in self._http}
        _log.info("serving", address=self._server.address, **http)
        await stopping.wait()
        self._health.report(parts.RUNNING, well=False)
        await self._server.stop(self._grace)
        _log.info("stopped")

    @property
    def _fatal(self) -> bool:
        """Whether rules that cannot be used end the program: those of the command line, as long as there are none."""
        return isinstance(self._environment.rules, Path) and self._rules.get() is None

    # what comes

    async def _follow(self) -> None:
        """Take rules for as long as we run: an error of ours must not end that, nor the service."""
        while True:
            try:
                await self._source.run(self._take, self._refuse)
            except Exception as error:
                _log.error("source_failed", exc_info=error)
                self._first.set()
            await asyncio.sleep(_PROBE_EVERY)

    def _take(self, rules: RuleSet) -> None:
        self._rules.swap(rules)
        self._stats.loaded(taken=True)
        self._health.report(parts.RULES, well=bool(rules.domains) or not self._environment.needs_domain)
        self._refused = None
        self._first.set()
        _log.info("config_taken", domains=len(rules.domains))

    def _refuse(self, error: ConfigError) -> None:
        self._stats.loaded(taken=False)
        self._refused = error
        self._first.set()
        if self._fatal:
            return  # said once, when the program ends
        for problem in error.problems:
            line = {"line": problem.line} if problem.line else {}
            _log.error("config_rejected", place=problem.place, path=problem.path, reason=problem.message, **line)

    async def _probe(self) -> None:
        """Ask the store until it answers; when the environment wants it watched, go on asking."""
        while True:
            try:
                await self._stores.store.ping()
            except StoreError as error:
                if self._health.parts[parts.STORE]:
                    _log.warning("store_lost", reason=str(error))
                self._health.report(parts.STORE, well=False)
            else:
                self._health.report(parts.STORE, well=True)
                if not self._environment.stores.watched:
                    return
            await asyncio.sleep(_PROBE_EVERY)

    def _tell(self, healthy: bool) -> None:
        self._server.report(serving=healthy)

    def _refresh(self) -> None:
        self._stats.stores(connections=self._stores.connections, left_alone=self._stores.left_alone)


def _named(problem: Problem, listen: str) -> Problem:
    """A problem with the address, by the names that an operator gave it."""
    if problem.place != "listen":
        return problem
    return replace(problem, place="GRPC_UDS" if listen.startswith("unix:") else "GRPC_HOST, GRPC_PORT (--listen)")


async def _first_of(*events: asyncio.Event) -> None:
    """Return when one of them is set."""
    async with _running(*(event.wait() for event in events)) as waiting:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)


@asynccontextmanager
async def _running(*programs: object) -> AsyncIterator[list[asyncio.Task[object]]]:
    """Run them beside the block, to its end."""
    tasks = [asyncio.ensure_future(program) for program in programs]  # type: ignore[call-overload]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
