"""Keys, clocks and waiting."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from uuid import uuid4

from extproc.cache.store import RedisStore
from extproc.cache.store.names import Names
from sidecar.redis import connect

PATIENT = "socket_timeout=5&socket_connect_timeout=5"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def key(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def names() -> Names:
    """A prefix that no other test uses."""
    return Names(f"test:{uuid4().hex}")


def redis_store(url: str, under: Names) -> RedisStore:
    return RedisStore(connect(url), under)


async def until(true: Callable[[], bool], what: str, patience: float = 15.0) -> None:
    """Let the loop run until it is so."""
    deadline = time.monotonic() + patience
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in time: {what}")
        await asyncio.sleep(0.005)
