"""The supervisor: Envoy and the sidecar, started in order, kept running, reloaded and drained.

start: files -> sidecar ready -> Envoy live
stop:  not ready -> Envoy drains -> open requests finish -> Envoy ends -> sidecar ends

With `envoy.start: false` somebody else starts and stops Envoy (in a pod: a container that runs `headgate envoy`).
All the rest is the same, over the files and the admin socket in the run folder.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import structlog

from headgate.envoy_admin import EnvoyAdmin
from headgate.render.secrets import check_files, credentials
from headgate.settings import Settings, load_settings, pinned
from headgate.up.addresses import check_free
from headgate.up.child import ENVOY_DIED, Child
from headgate.up.drain import drain
from headgate.up.envoy import EnvoyStart
from headgate.up.files import EnvoyFiles, EnvoyRefusedError, Rendered, keep_copy, render, write_all
from headgate.up.folder import RunFolder
from sidecar.configfile import ConfigFile
from sidecar.errors import ConfigError, HeadgateError
from sidecar.reload import changes, fingerprint
from sidecar.waiting import set_within

_log = structlog.get_logger("up")
_START_SECONDS = 30.0
_POLL_SECONDS = 0.05
_STOP_SECONDS = 5.0
_LAST_CALLS_SECONDS = 3.0
_SIDECAR_RELOAD_SECONDS = 10.0
_SWEEP_SECONDS = 1.0
_KEYS_SECONDS = 2.0

Announce = Callable[[str], None]


class StartError(HeadgateError):
    """A part did not come up."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration file as it was read: settings, places, and the version of its content."""

    path: Path
    settings: Settings
    file: ConfigFile
    version: str


def read(path: Path, environment: Mapping[str, str]) -> Configuration:
    """Read and check `path`. Raises `ConfigError`."""
    version = fingerprint(path)
    settings, file = load_settings(path, environment)
    return Configuration(path, settings, file, version)


def _linger(settings: Settings) -> float:
    """Seconds from the start of a request to the moment when Envoy has routed it, at most."""
    waits = settings.longest_wait if settings.has_cache else 0.0
    return settings.request_timeout + settings.decision_timeout + waits + settings.limits.timeout


class Supervisor:
    """Runs one gateway on this machine until it is told to stop."""

    def __init__(self, configuration: Configuration, announce: Announce) -> None:
        self._configuration = configuration
        self._announce = announce
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reload = asyncio.Event()
        settings = configuration.settings
        self._folder = RunFolder(settings.run_dir)
        self.layout = self._folder.layout
        self._admin = EnvoyAdmin(self.layout.envoy_admin)
        self._keys = credentials(configuration.settings, configuration.file)
        self._rendered = self._render(configuration)
        self._files = EnvoyFiles(self.layout, self._admin, self._rendered, time.monotonic)
        self._sidecar = Child("sidecar", self._sidecar_command())
        self._envoy: Child | None = None
        if settings.envoy.start:
            self._envoy = Child("envoy", EnvoyStart.of(settings).command(self.layout))
        self._listens = False  # whether the sidecar has come up, and so takes signals
        self._rejected = "0"  # listeners that Envoy had refused before we came

    def _render(self, configuration: Configuration) -> Rendered:
        check_files(configuration.settings, configuration.file)
        keys = credentials(configuration.settings, configuration.file)
        return render(configuration.settings, self.layout, keys, configuration.version)

    def _sidecar_command(self) -> list[str]:
        return [
            sys.executable, "-m", "headgate", "serve", "-c", str(self._configuration.path),
            "--run-dir", str(self.layout.folder), "--managed",
        ]  # fmt: skip

    async def run(self, ready: Callable[[], None]) -> None:
        """Start, call `ready`, serve, stop. Raises `StartError` when a part does not come up."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._interrupted)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        try:
            await self._start()
            ready()
            await self._serve()
        finally:
            await self._stop()

    def _interrupted(self) -> None:
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def _start(self) -> None:
        await self._folder.claim()
        self._rejected = await self._rejections()
        write_all(self._rendered, self.layout)
        keep_copy(self.layout.envoy_start, EnvoyStart.of(self._configuration.settings).text())
        keep_copy(self.layout.started, self._configuration.file.text)
        self._remember_as_good()
        self._announce("starting the sidecar (ext_proc, rate limit, admin)")
        await self._sidecar.start()
        await self._until("the sidecar", self._sidecar, self._sidecar_ready)
        self._listens = True
        if self._envoy is not None:
            self._announce("starting Envoy")
            await self._envoy.start(on_restart=lambda: self._sidecar.signal(ENVOY_DIED))
            await self._until("Envoy", self._envoy, self._envoy_ready)
        else:
            self._announce(f"waiting for the Envoy that takes its files from {self.layout.folder}")
            await self._until_met()

    async def _until_met(self) -> None:
        """Until the Envoy that somebody else starts is there, however long that takes."""
        while not await self._envoy_ready():
            if await set_within(self._stopping, _POLL_SECONDS):
                raise StartError("interrupted while starting")

    async def _until(self, name: str, child: Child, check: Callable[[], asyncio.Future[bool] | object]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._stopping.is_set():
                raise StartError("interrupted while starting")
            if child.exited is not None:
                raise StartError(f"{name} ended with status {child.exited} while starting: see its messages above")
            if await check():  # type: ignore[misc]
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise StartError(f"{name} did not come up within {_START_SECONDS:g} seconds")

    async def _sidecar_ready(self) -> bool:
        return await self._sidecar_status() is not None

    async def _envoy_ready(self) -> bool:
        if await self._admin.state() != "LIVE":
            return False
        found = await self._admin.stats(r"^listener_manager\.total_listeners_active$") or {}
        if await self._rejections() != self._rejected:
            raise StartError("Envoy refused the listener: its message above says why")
        return found.get("listener_manager.total_listeners_active", "0") != "0"

    async def _rejections(self) -> str:
        """How many listeners Envoy has refused so far."""
        name = "listener_manager.lds.update_rejected"
        return (await self._admin.stats(rf"^{re.escape(name)}$") or {}).get(name, "0")

    async def _sidecar_status(self) -> str | None:
        """The version of the configuration that our sidecar runs; None while it does not answer."""
        timeout = aiohttp.ClientTimeout(total=1.0)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://{self._configuration.settings.admin}/status") as response,
            ):
                status = await response.json()
                ours = status["run_dir"] == str(self.layout.folder.absolute())  # another's may have taken the address
                return str(status["config"]["hash"]) if ours else None
        except (aiohttp.ClientError, OSError, TimeoutError, KeyError, ValueError):
            return None

    async def _serve(self) -> None:
        watcher = asyncio.create_task(self._watch_file())
        keys = asyncio.create_task(self._watch_keys())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                reload = asyncio.create_task(self._reload.wait())
                await asyncio.wait({reload, stopping}, timeout=_SWEEP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                reload.cancel()
                await self._sweep()
                if self._reload.is_set():
                    self._reload.clear()
                    await self._take_configuration()
        finally:
            await watcher
            await keys

    async def _sweep(self) -> None:
        try:
            await self._files.sweep()
        except EnvoyRefusedError as error:
            _log.error("envoy_update_failed", reason=str(error))

    async def _watch_file(self) -> None:
        async for _ in changes(self._configuration.path, self._stopping, self._configuration.version):
            self._reload.set()

    async def _watch_keys(self) -> None:
        """Providers' keys that stand in files of their own (`${file:…}`) may be replaced at any time."""
        while not self._stopping.is_set():
            await set_within(self._stopping, _KEYS_SECONDS)
            try:
                keys = credentials(self._configuration.settings, self._configuration.file)
            except ConfigError:
                continue  # just being replaced: what is in force stays
            if keys != self._keys:
                self._keys = keys
                self._reload.set()

    async def _take_configuration(self) -> None:
        """Check the file, make Envoy ready for it, swap the decisions, take the old away."""
        try:
            new = self._read_again()
            rendered = self._render(new)
        except ConfigError as error:
            for one in error.problems:
                _log.error("config_rejected", place=one.place, path=one.path, reason=one.message, mend=one.mend)
            self._sidecar.signal(signal.SIGUSR2)
            return
        try:
            await self._files.begin(rendered)
            keep_copy(self.layout.checked, new.file.text)
            self._sidecar.signal(signal.SIGHUP)
            if not await self._sidecar_took(new.version):
                self._files.abandon()
                _log.error("config_not_taken", reason="the sidecar did not take it")
                return
            self._files.commit(rendered, _linger(self._configuration.settings))
        except EnvoyRefusedError as error:
            _log.error("config_not_taken", file=str(new.path), reason=str(error))
            self._sidecar.signal(signal.SIGUSR2)
            return
        self._configuration = new
        self._remember_as_good()
        self._announce(f"configuration {new.version} is in force")

    def _read_again(self) -> Configuration:
        """The file as it is now, with what cannot change while running kept. Raises `ConfigError`."""
        running = self._configuration.settings
        new = read(self._configuration.path, os.environ)
        settings, _ = pinned(new.settings, running)
        if settings.listen != running.listen:
            check_free("listen", settings.listen)
        return replace(new, settings=settings)

    def _remember_as_good(self) -> None:
        """Keep a copy of the file for a sidecar that has to start while the file is broken."""
        keep_copy(self.layout.last_good, self._configuration.file.text)

    async def _sidecar_took(self, version: str) -> bool:
        deadline = time.monotonic() + _SIDECAR_RELOAD_SECONDS
        while time.monotonic() < deadline:
            if await self._sidecar_status() == version:
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    async def _stop(self) -> None:
        self._stopping.set()
        if self._listens:
            self._sidecar.signal(signal.SIGUSR1)
            if self._envoy is None or self._envoy.pid is not None:
                await self._drain_envoy()
        if self._envoy is not None:
            await self._envoy.stop(_STOP_SECONDS)
        elif self._listens:
            await self._until_left()
        await self._sidecar.stop(_STOP_SECONDS)
        await self._admin.close()
        self._folder.release()

    async def _drain_envoy(self) -> None:
        settings = self._configuration.settings

        def waits(active: int) -> None:
            limit = f"at most {settings.drain_timeout:g} s (Ctrl-C again to cut them)"
            self._announce(f"draining: {active} open request(s), {limit}")

        delay = settings.drain_delay
        await drain(self._admin, delay=delay, timeout=settings.drain_timeout, hurry=self._hurry, waits=waits)

    async def _until_left(self) -> None:
        """Envoy's last calls (what was really used, its log) come within a second or two: they are still heard."""
        deadline = time.monotonic() + _LAST_CALLS_SECONDS
        while time.monotonic() < deadline and not self._hurry.is_set():
            if await self._admin.state() is None:
                return
            await asyncio.sleep(_POLL_SECONDS)
