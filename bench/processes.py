"""Child processes of a benchmark: started (on a core of their own when pinned), watched, stopped together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

START_SECONDS = 40.0
_STOP_SECONDS = 15.0
_LINES_SHOWN = 3


class UnavailableError(Exception):
    """An arm cannot be measured here; the message says why. The run goes on without it."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Which cores the gateway's processes and those of the load (generator, provider) may use; None: every core."""

    gateway: frozenset[int] | None = None
    load: frozenset[int] | None = None

    @classmethod
    def pinned(cls) -> Placement:
        """The gateway on the first core that we may use, the load on the second. Raises `UnavailableError`."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise UnavailableError("pinning needs two cores")
        return cls(frozenset(cores[:1]), frozenset(cores[1:2]))

    def settle(self) -> None:
        """Move this process, which is the generator, to its cores."""
        if self.load is not None:
            os.sched_setaffinity(0, self.load)


FLOATING = Placement()


def free_port() -> int:
    """A TCP port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def on_cores(cores: frozenset[int] | None) -> Iterator[None]:
    """What is started inside runs on these cores, from its first instruction on."""
    before = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


class Processes:
    """Children with one private folder for their files, stopped together, the last one first."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hg-bench-")
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []

    @property
    def folder(self) -> Path:
        """Where their configuration and their logs are; gone after `stop`."""
        return Path(self._folder.name)

    def spawn(
        self,
        command: Sequence[str],
        cores: frozenset[int] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> psutil.Process:
        """Start a command; `environment` is laid over ours, in which no setting of Headgate's is passed on."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")}
        path = self.folder / f"{len(self._running)}.log"
        with path.open("wb") as log, on_cores(cores):
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**ours, **(environment or {})}
            )
        self._running.append((process, path))
        return psutil.Process(process.pid)

    def check(self) -> None:
        """Raise `UnavailableError`, with its last words, when a child has ended."""
        for process, log in self._running:
            if process.poll() is not None:
                lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
                words = " | ".join(lines[-_LINES_SHOWN:]).replace(f"{self.folder}/", "") or "it said nothing"
                raise UnavailableError(f"ended with status {process.returncode}: {words}")

    def until(self, ready: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
        """Return when `ready` says so. Raises `UnavailableError` when a child ends first or it never does."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            if ready():
                return
            time.sleep(0.05)
        raise UnavailableError(f"{what}: not ready after {seconds:g} s")

    def until_listening(self, port: int, seconds: float = START_SECONDS) -> None:
        """Return when somebody listens on `port`. Raises `UnavailableError`."""
        self.until(lambda: _listens(port), f"port {port}", seconds)

    def until_ok(self, url: str, seconds: float = START_SECONDS) -> None:
        """Return when `url` answers 200. Raises `UnavailableError`."""
        self.until(lambda: _answers(url), url, seconds)

    def stop(self) -> None:
        """End all of them and remove the folder."""
        for process, _ in reversed(self._running):
            process.send_signal(signal.SIGINT)
        for process, _ in reversed(self._running):
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()
        self._folder.cleanup()
