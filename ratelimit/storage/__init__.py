"""Stores for counters. The embedded one answers at once, Redis in one round trip."""

from __future__ import annotations

from ratelimit.storage.base import Count, Operation, Store
from ratelimit.storage.memory import MemoryStore
from ratelimit.storage.redis import RedisStore
from sidecar.redis import connect

__all__ = ["Count", "MemoryStore", "Operation", "RedisStore", "Store", "open_store"]


def open_store(url: str) -> Store:
    """The store for `url`: `memory://` or a Redis URL. Raises `ConfigError` for another scheme."""
    return MemoryStore() if url == "memory://" else RedisStore(connect(url))
