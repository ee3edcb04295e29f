"""Several workers as one sidecar: started, watched, signalled and shown together (`workers: N`).

Python decides on one core per process; Envoy has an endpoint per worker and splits its calls evenly. This process
decides nothing: it keeps the workers running, serves the admin port for all of them and passes signals on.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence

import structlog

from headgate.admin import AdminSources, admin_servers
from headgate.render.layout import Layout
from headgate.settings import Settings
from headgate.up.child import ENVOY_DIED, Child
from headgate.worker_reports import WorkerReports
from sidecar.errors import HeadgateError
from sidecar.waiting import set_within

_log = structlog.get_logger("headgate")
_START_SECONDS = 30.0
_POLL_SECONDS = 0.05
_STOP_SECONDS = 5.0
_WATCH_SECONDS = 1.0
_HUNG_SECONDS = 5.0
_PASSED_ON = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, ENVOY_DIED)


class WorkerError(HeadgateError):
    """A worker did not come up."""


class Workers:
    """`command` gives the command line of worker N."""

    def __init__(self, settings: Settings, layout: Layout, command: Callable[[int], Sequence[str]]) -> None:
        self._grace = settings.drain_timeout + _STOP_SECONDS
        self._children = [Child(f"worker {number}", command(number)) for number in range(settings.workers)]
        self._reports = WorkerReports([layout.worker_admin(number) for number in range(settings.workers)])
        purge = self._reports.purge if settings.has_cache else None
        sources = AdminSources(self._reports.dependencies, self._reports.metrics, self._reports.status, purge=purge)
        self._admin = admin_servers(settings, sources)
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises `WorkerError` when a worker does not come up."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        for number in _PASSED_ON:
            loop.add_signal_handler(number, self._pass_on, number)
        try:
            for child in self._children:
                await child.start()
            await self._until_up()
            for server in self._admin:
                await server.start()
            _log.info("workers_serving", workers=len(self._children))
            await self._watch()
        finally:
            await asyncio.gather(*(child.stop(self._grace) for child in self._children))
            await asyncio.gather(*(server.stop() for server in self._admin))

    async def _watch(self) -> None:
        """Until we are told to stop: a worker that runs and does not answer for long is killed, and so started anew."""
        answered = [time.monotonic() for _ in self._children]
        while not self._stopping.is_set():
            if await set_within(self._stopping, _WATCH_SECONDS):
                return
            for number, answers in enumerate(await self._reports.answers()):
                if answers or self._children[number].pid is None:
                    answered[number] = time.monotonic()
                elif time.monotonic() - answered[number] > _HUNG_SECONDS:
                    _log.error("worker_hangs", worker=number, silent_seconds=_HUNG_SECONDS)
                    self._children[number].signal(signal.SIGKILL)
                    answered[number] = time.monotonic()

    def _pass_on(self, number: signal.Signals) -> None:
        for child in self._children:
            child.signal(number)

    async def _until_up(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and not self._stopping.is_set():
            for child in self._children:
                if child.exited is not None:
                    raise WorkerError(f"{child.name} ended with status {child.exited} while starting: see above")
            if all(await self._reports.answers()):
                return
            await asyncio.sleep(_POLL_SECONDS)
        if not self._stopping.is_set():
            raise WorkerError(f"the workers did not come up within {_START_SECONDS:g} seconds")
