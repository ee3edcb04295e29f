"""Waiting for boards, which deliver in their own time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_PATIENCE = 15.0  # seconds


async def until(true: Callable[[], bool], what: str) -> None:
    """Let the loop run until it is so."""
    deadline = time.monotonic() + _PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in time: {what}")
        await asyncio.sleep(0.005)
