"""Stores for counters. The embedded one answers at once, Redis in one round trip."""

from __future__ import annotations

from ratelimit.storage.base import Count, Operation, Store
from ratelimit.storage.memory import MemoryStore
from ratelimit.storage.redis import RedisStore
from sidecar.errors import ConfigError, Problem
from sidecar.redis import SCHEMES, connect

__all__ = ["Count", "MemoryStore", "Operation", "RedisStore", "Store", "open_store"]

MEMORY = "memory://"


def open_store(url: str) -> Store:
    """The store for `url`: `memory://` or a Redis URL. Nothing is sent yet.

    Raises `ConfigError` for another scheme or a URL that cannot be parsed; its text never holds more of the
    URL than the scheme, because a URL may hold a password.
    """
    if url == MEMORY:
        return MemoryStore()
    if not url.startswith(SCHEMES):
        scheme, separator, _ = url.partition("://")
        what = f"there is no store for '{scheme}://'" if separator else "the store's URL has no scheme"
        raise ConfigError([Problem("store", "", what, f"use one of {', '.join((MEMORY, *SCHEMES))}")])
    return RedisStore(connect(url))
