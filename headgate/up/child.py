"""One child process that is kept running."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from sidecar.waiting import set_within

_log = structlog.get_logger("up")
ENVOY_DIED = signal.SIGURG  # what the sidecar is told; ignored by a process that does not listen yet
_BACKOFF_FIRST = 0.1
_BACKOFF_MOST = 5.0
_STEADY_SECONDS = 10.0


# Looked up here: between fork and exec nothing may be loaded. None where the system has no such call.
_prctl: Any = getattr(ctypes.CDLL(None), "prctl", None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when the supervisor is gone, even if it was killed (Linux, prctl(2))."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


class Child:
    """Starts a command, starts it again when it dies, and stops it for good.

    Every child leads a process group of its own, so that a terminal's Ctrl-C reaches only the supervisor
    and stopping takes the child's own children along.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.restarts = 0
        self._command = tuple(command)
        self._environment = dict(environment) if environment is not None else None
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stop_asked = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self, *, on_restart: Callable[[], None] | None = None) -> None:
        """Start it, and keep it running from now on."""
        await self._spawn()
        self._watcher = asyncio.create_task(self._keep(on_restart))

    async def _spawn(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )

    async def _keep(self, on_restart: Callable[[], None] | None) -> None:
        backoff = _BACKOFF_FIRST
        while True:
            assert self._process is not None
            started = time.monotonic()
            code = await self._process.wait()
            if self._stop_asked.is_set():
                return
            if time.monotonic() - started > _STEADY_SECONDS:
                backoff = _BACKOFF_FIRST
            _log.error("child_died", child=self.name, status=code, restart_in_seconds=backoff)
            if await set_within(self._stop_asked, backoff):
                return
            backoff = min(backoff * 2, _BACKOFF_MOST)
            self.restarts += 1
            await self._spawn()
            if on_restart is not None:
                on_restart()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                assert self._process is not None
                self._process.send_signal(number)

    async def stop(self, grace: float) -> None:
        """SIGTERM, then SIGKILL for what still runs after `grace` seconds."""
        self._stop_asked.set()
        self.signal(signal.SIGTERM)
        if self._process is not None:
            try:
                async with asyncio.timeout(grace):
                    await self._process.wait()
            except TimeoutError:
                _log.warning("child_killed", child=self.name, after_seconds=grace)
                self.signal(signal.SIGKILL)
                await self._process.wait()
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher

    @property
    def exited(self) -> int | None:
        """The exit status of the last run, None while it runs."""
        return self._process.returncode if self._process is not None else None
