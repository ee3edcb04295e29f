"""The composition root of the sidecar: settings in, running services out. Read it top-down.

Sidecar.start -> services and admin are up -> reload on SIGHUP or file change -> drain -> stop
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from extproc.accesslog import DECIDED, SETTLING, RequestRecord, Sink, access_log
from extproc.balance.health import Health
from extproc.balance.neighbours import Neighbours
from extproc.balance.shared import Shared
from extproc.limits import Limits
from extproc.processor import Processor
from extproc.recorder import Recorder
from extproc.server import Patience, external_processor
from headgate import __version__
from headgate.admin import AdminServer, AdminSources, Dependency, admin_servers
from headgate.caching import Caching
from headgate.envoy_admin import EnvoyAdmin
from headgate.health_checks import HealthChecks
from headgate.limits import present
from headgate.render.layout import Layout
from headgate.render.secrets import check_files, credentials
from headgate.reporting import Reporter
from headgate.settings import Settings, load_settings, open_services, pinned
from headgate.settling import Only, check_only
from headgate.snapshot import build_snapshot
from headgate.target_watch import TargetWatch
from headgate.up.child import ENVOY_DIED
from headgate.worker_reports import WorkerReport
from ratelimit.limiter import Limiter
from ratelimit.server import rate_limit_service
from ratelimit.storage import MEMORY, open_store
from sidecar.errors import ConfigError, StoreError
from sidecar.lifecycle import give_large_blocks_back, keep_what_is_loaded
from sidecar.metrics import Metrics
from sidecar.options import ServerOptions, Tls
from sidecar.redis import connect
from sidecar.reload import Current, changes, fingerprint
from sidecar.server import GrpcServer

_log = structlog.get_logger("headgate")
_PING_SECONDS = 0.5


def server_options(settings: Settings) -> ServerOptions:
    """What the settings ask of our servers' connections."""
    tls = settings.services.tls
    files = None
    if tls is not None:
        files = Tls(Path(tls.cert), Path(tls.key), Path(tls.client_ca) if tls.client_ca else None)
    return ServerOptions(tls=files, max_connection_age=settings.services.max_connection_age)


class Sidecar:
    """Both services (or one), the access log, and the admin port, in one process."""

    def __init__(
        self,
        path: Path,
        settings: Settings,
        layout: Layout,
        *,
        only: Only | None = None,
        watch: bool = True,
        manages_envoy: bool = False,
        version: str = "",
        worker: int | None = None,
    ) -> None:
        self._path = path
        self._worker = worker
        self._only = only
        self._layout = layout
        self._watch = watch
        self._started = time.monotonic()
        self._current = Current(build_snapshot(settings, version or fingerprint(path)))
        self._draining = False
        self._stopping = asyncio.Event()
        number = worker or 0
        self.metrics = Metrics(number)
        health = Health(time.monotonic)
        targets = TargetWatch(health, self.metrics, lambda: self._current.get().policy, time.time)
        targets.take(self._current.get().policy)
        self._targets = targets
        self._checks = HealthChecks(health)
        reporter = Reporter(
            self.metrics,
            log_requests=settings.log.requests,
            settings=lambda: self._current.get().settings,
            forwarded=targets.forwarded,
        )
        in_process = settings.limits.enforce == "in_process"
        # Answers from the cache count where they are found, and what was reserved is settled where the log comes:
        # ext_proc alone needs shared counters, too.
        counts = in_process or only != "extproc" or settings.store != MEMORY
        self._store = open_store(settings.store) if counts else None
        limiter = Limiter(self._store, time.time, reporter) if self._store is not None else None
        self._servers: dict[str, GrpcServer] = {}
        caches = only != "ratelimit" and settings.has_cache
        self._caching = Caching(settings, reporter, number, layout.embeddings) if caches else None
        if only != "ratelimit":
            self._share(health, settings)
            limits = self._limits(limiter) if limiter is not None else None
            cache = self._caching.cache if self._caching is not None else None
            # Whether a log is one to settle from is Envoy's configuration to say, which may be older than ours.
            settler = limits if worker is None or settings.store != MEMORY else None
            processor = Processor(lambda: self._current.get().policy, random.random, health)
            services = (
                external_processor(
                    processor,
                    time.perf_counter,
                    reporter,
                    limits if in_process else None,
                    worker,
                    cache,
                    limits if cache is not None else None,
                    Patience.of(settings.decision_timeout, settings.longest_wait),
                    self._caching.replays if self._caching is not None else None,
                    self._caching.semantic if self._caching is not None else None,
                ),
                access_log(
                    _sink(reporter, self._targets, settler),
                    self._targets.failed,
                    self._targets.targets,
                    Recorder(cache) if cache is not None else None,
                    [*([SETTLING] if settler is not None else ()), *([DECIDED] if in_process else ())],
                ),
            )
            self._servers["extproc"] = GrpcServer(
                services,
                listen=layout.extproc(settings, number),
                max_message_bytes=settings.largest_message,
                engine=settings.engine,
                options=server_options(settings),
            )
        # Of several workers the first owns the embedded store: counted in one place, limits are exact.
        owns = number == 0 or settings.store != MEMORY
        if limiter is not None and not in_process and owns and only != "extproc":
            service = rate_limit_service(limiter, lambda: self._current.get().rules, present, time.perf_counter)
            listen = layout.ratelimit(settings, number)
            self._servers["ratelimit"] = GrpcServer(
                [service], listen=listen, engine=settings.engine, options=server_options(settings)
            )
        self._envoy = EnvoyAdmin(layout.envoy_admin) if manages_envoy else None
        sources = AdminSources(
            self._dependencies,
            self._exposition,
            self._status,
            self._report,
            self._caching.purge if self._caching is not None else None,
        )
        if worker is None:
            self._admin = admin_servers(settings, sources)
        else:
            self._admin = [AdminServer(layout.worker_admin(worker), sources)]

    def _share(self, health: Health, settings: Settings) -> None:
        """Who else is to know what becomes of targets: replicas over Redis, the other workers by their sockets."""
        if settings.store != MEMORY:
            origin = f"{socket.gethostname()}-{os.getpid()}"
            self._targets.share(Shared(connect(settings.store), health.heard, time.monotonic, origin=origin))
        if self._worker is not None:
            folder, workers = self._layout.folder, settings.workers
            neighbours = Neighbours(folder, self._worker, workers, health.heard, health.ended)
            self._targets.join(self._worker, neighbours)

    def _limits(self, limiter: Limiter) -> Limits:
        return Limits(
            limiter,
            lambda: self._current.get().rules,
            present,
            lambda: self._current.get().settings.limits.on_error == "allow",
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop gracefully."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        loop.add_signal_handler(signal.SIGUSR1, self.drain)
        loop.add_signal_handler(signal.SIGUSR2, self._refused)
        if self._caching is not None:
            loop.add_signal_handler(ENVOY_DIED, self._caching.cache.all_lost)
        await self.start()
        watcher = asyncio.create_task(self._reload_on_change()) if self._watch else None
        try:
            await self._stopping.wait()
        finally:
            if watcher is not None:
                await watcher
            await self.stop()

    async def start(self) -> None:
        """Bring everything up. Raises `ConfigError` when an address cannot be bound."""
        self._taken()
        try:
            if self._caching is not None:
                await self._caching.check(self._source())
            for server in self._servers.values():
                await server.start()
            for admin in self._admin:
                await admin.start()
        except ConfigError:
            await self.stop()
            raise
        if "extproc" in self._servers:
            self._checks.take(self._current.get().settings)
            self._targets.start()
        if self._caching is not None:
            self._caching.start()
        keep_what_is_loaded()
        give_large_blocks_back()
        for name in open_services(self._current.get().settings):
            _log.warning("service_open_to_the_network", service=name, mend="set services.tls.client_ca")
        _log.info(
            "serving",
            version=__version__,
            admin=self._current.get().settings.admin,
            config=self._current.get().version,
            **{name: server.address for name, server in self._servers.items()},
        )

    def drain(self) -> None:
        """Report not ready from now on; everything still works."""
        self._draining = True

    async def stop(self) -> None:
        """Turn away new calls, let running ones finish, close the store."""
        self.drain()
        await self._checks.stop()
        await self._targets.close()
        grace = self._current.get().settings.drain_timeout
        await asyncio.gather(*(server.stop(grace) for server in self._servers.values()))
        await asyncio.gather(*(admin.stop() for admin in self._admin))
        if self._store is not None:
            await self._store.close()
        if self._caching is not None:
            await self._caching.stop()
        if self._envoy is not None:
            await self._envoy.close()
        _log.info("stopped")

    def reload(self) -> bool:
        """Read the file again and swap the snapshot. A bad file changes nothing; returns whether it was taken."""
        previous = self._current.get()
        try:
            source = self._source()
            version = fingerprint(source)
            settings, file = load_settings(source, os.environ, folder=self._path.parent)
            if self._envoy is not None:
                # The supervisor needs every provider's key: without one it cannot follow, so neither do we.
                check_files(settings, file)
                credentials(settings, file)
            settings, fixed = pinned(settings, previous.settings)
            check_only(self._only, settings)
            snapshot = build_snapshot(settings, version)
        except ConfigError as error:
            self._refused()
            for problem in error.problems:
                _log.error(
                    "config_rejected",
                    place=problem.place,
                    path=problem.path,
                    reason=problem.message,
                    mend=problem.mend,
                )
            return False
        if settings.has_cache and self._caching is None and "extproc" in self._servers:
            fixed.append("models.*.cache")  # the first one: until then nothing is kept
        elif settings.semantic_models and (self._caching is not None and self._caching.semantic is None):
            fixed.append("models.*.cache.semantic")
        if fixed:
            _log.warning("config_needs_restart", settings=fixed)
        self._current.swap(snapshot)
        self._targets.take(snapshot.policy)
        if "extproc" in self._servers:
            self._checks.take(snapshot.settings)
        self._taken()
        _log.info("config_taken", config=version, previous=previous.version)
        return True

    def _source(self) -> Path:
        """The file to read: under the supervisor what it has checked, which may be older than the file is by now."""
        managed = self._layout.checked
        return managed if not self._watch and managed.is_file() else self._path

    def _refused(self) -> None:
        """A configuration was not taken: by us, or (SIGUSR2 from the supervisor) by Envoy."""
        if not self._worker:
            self.metrics.reloads.labels("rejected").inc()
        self.metrics.reload_healthy.set(0)

    def _taken(self) -> None:
        if not self._worker:  # workers load together: one of them counts
            self.metrics.reloads.labels("taken").inc()
        self.metrics.reload_healthy.set(1)
        self.metrics.reload_time.set(time.time())

    async def _reload_on_change(self) -> None:
        async for _ in changes(self._path, self._stopping, self._current.get().version):
            self.reload()

    async def _dependencies(self) -> Mapping[str, Dependency]:
        found = {name: Dependency("serving", not self._draining) for name in self._servers}
        if self._draining:
            found = {name: Dependency("draining", ready=False) for name in self._servers}
        if self._store is not None:
            found["store"] = await self._store_state()
        if self._caching is not None:
            found["cache"] = Dependency(await self._caching.state(), ready=True)
        if self._envoy is not None:
            state = await self._envoy.state()
            found["envoy"] = Dependency(state or "does not answer", state == "LIVE")
        return found

    async def _store_state(self) -> Dependency:
        assert self._store is not None
        settings = self._current.get().settings
        if settings.store.startswith("memory://"):
            return Dependency("memory", ready=True)
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._store.ping()
        except (StoreError, TimeoutError) as error:
            policy = settings.limits.on_error
            return Dependency(
                f"down ({error or 'timeout'}): requests are {'allowed' if policy == 'allow' else 'denied'}",
                policy == "allow",
            )
        return Dependency("answers", ready=True)

    async def _exposition(self) -> bytes:
        self._targets.refresh()
        return self.metrics.exposition()

    async def _report(self) -> bytes:
        self._targets.refresh()
        report = WorkerReport(await self._dependencies(), self.metrics.snapshot(), await self._status())
        return msgspec.json.encode(report)

    async def _status(self) -> Mapping[str, Any]:
        snapshot = self._current.get()
        settings = snapshot.settings
        return {
            "version": __version__,
            "config": {"file": str(self._path), "hash": snapshot.version},
            "run_dir": str(self._layout.folder),
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "draining": self._draining,
            "services": {name: server.address for name, server in self._servers.items()},
            "store": settings.store.partition("://")[0],
            "providers": {
                name: {
                    "dialect": one.dialect,
                    "endpoints": one.endpoints,
                    "keys": sum(bool(key.get_secret_value()) for key in one.credentials),
                }
                for name, one in settings.providers.items()
            },
            "models": {
                name: {"strategy": one.strategy, "attempts": one.attempts} for name, one in settings.models.items()
            },
            "targets": self._targets.status(),
            "keys": [key.name for key in settings.keys],
            "cache": self._caching.status(self.metrics) if self._caching is not None else None,
        }


def _sink(reporter: Reporter, targets: TargetWatch, settler: Limits | None) -> Sink:
    """What becomes of finished requests. They are settled first: whatever becomes of the reports."""

    def finished(records: Sequence[RequestRecord]) -> Awaitable[None] | None:
        waiting = settler.settle(records) if settler is not None else None
        reporter.finished(records)
        targets.finished(records)
        return waiting

    return finished


async def serve(sidecar: Sidecar) -> None:
    """Run `sidecar` to its end."""
    with contextlib.suppress(asyncio.CancelledError):
        await sidecar.run()
