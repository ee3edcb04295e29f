"""Where cached answers are kept: in this process, or in a Redis that all replicas share."""

from __future__ import annotations

from extproc.cache.store.base import ByKeys, ByTag, CacheStats, CacheStore, Everything, Selection
from extproc.cache.store.locks import Locks
from extproc.cache.store.memory import MemoryStore
from extproc.cache.store.redis import RedisStore
from extproc.cache.store.sealed import SealedStore

__all__ = [
    "ByKeys",
    "ByTag",
    "CacheStats",
    "CacheStore",
    "Everything",
    "Locks",
    "MemoryStore",
    "RedisStore",
    "SealedStore",
    "Selection",
]
