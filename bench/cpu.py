"""What a process has used, from /proc: user and system time of all its threads, and its resident memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

_TICKS = 2 / 100  # seconds by which /proc/PID/stat may be behind (its tick is 10 ms)


@dataclass(frozen=True, slots=True)
class Reading:
    """A process at one moment: `coarse` counts in ticks and knows ended threads, `exact` (by thread) in nanoseconds."""

    coarse: float
    exact: Mapping[int, int]


def read(process: psutil.Process) -> Reading:
    """The CPU that `process` has used so far, all threads. Raises `psutil.NoSuchProcess` when it is gone."""
    times = process.cpu_times()
    exact: dict[int, int] = {}
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        try:
            exact[int(task.name)] = int((task / "schedstat").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            continue  # the thread has just ended, or this kernel keeps no such account
    return Reading(float(times.user + times.system), exact)


def seconds(before: Reading, after: Reading) -> float:
    """CPU seconds between two readings: exact, unless threads ended in between with time that only ticks know of."""
    coarse = after.coarse - before.coarse
    if not after.exact:
        return coarse
    exact = sum(used - before.exact.get(thread, 0) for thread, used in after.exact.items()) / 1e9
    return coarse if coarse - exact > _TICKS else exact


class Account:
    """The CPU of several processes from now on, by role."""

    def __init__(self, roles: Mapping[str, psutil.Process]) -> None:
        self._roles = dict(roles)
        self._before = {role: read(process) for role, process in self._roles.items()}

    def seconds(self) -> dict[str, float]:
        """CPU seconds of each role since then."""
        return {role: seconds(self._before[role], read(process)) for role, process in self._roles.items()}

    def us_per(self, requests: int) -> dict[str, float]:
        """CPU microseconds of each role per request since then."""
        return {role: used / max(1, requests) * 1e6 for role, used in self.seconds().items()}


def rss_mb(roles: Mapping[str, psutil.Process]) -> dict[str, float]:
    """Resident memory of each role in MB (10**6 bytes)."""
    return {role: process.memory_info().rss / 1e6 for role, process in roles.items()}


def python_us(cpu_us: Mapping[str, float]) -> float:
    """The sum over our Python processes: every worker and the supervisor."""
    return sum(used for role, used in cpu_us.items() if role.startswith(("python", "supervisor")))
