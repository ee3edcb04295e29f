"""What a benchmark was measured on."""

from __future__ import annotations

import platform

import psutil


def machine() -> str:
    """Cores, memory, system."""
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{psutil.cpu_count()} cores, {memory:.0f} GiB, {system}"
