"""The semantic cache of one process, as the settings have it: its parts, and whether its Redis can do it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Protocol

import structlog

from extproc.cache.cache import Cache
from extproc.cache.cache import Observer as CacheObserver
from extproc.cache.store import CacheStore
from extproc.semantic.cache import Learner, Observer, SemanticCache
from extproc.semantic.embedder import EnvoyEmbedder
from extproc.semantic.index import NoVectorSets, RedisIndex
from extproc.settings import DEFERRED
from headgate.settings import Settings
from sidecar import configfile
from sidecar.configfile import KeyPath, dotted
from sidecar.errors import ConfigError, Problem, StoreError
from sidecar.redis import connect

_log = structlog.get_logger("headgate")


class Reporting(CacheObserver, Observer, Protocol):
    """Observes both caches."""

    def embedded(self, model: str, tokens: int) -> None:
        """A vector was made, for so many tokens."""


class Semantic:
    """Opened with the exact cache that it stands on. `socket` is that of Envoy's listener for embeddings."""

    def __init__(self, settings: Settings, reporter: Reporting, socket: Path) -> None:
        self._models = settings.semantic_models
        self._reporter = reporter
        self._index = RedisIndex(connect(settings.cache_store))
        self._embedder = EnvoyEmbedder(socket, time.monotonic, reporter.embedded)
        self.learner = Learner(reporter, reporter, self._index, time.time)

    def over(self, cache: Cache, store: CacheStore) -> SemanticCache:
        """Asked in place of `cache`, whose answers are in `store`."""
        return SemanticCache(cache, store, self._embedder, self._index, self._reporter, time.monotonic, time.time)

    async def check(self, path: Path) -> None:
        """Raise `ConfigError` when the store cannot search vectors; `path` is the file that asks for it.

        A store that does not answer is given the benefit of the doubt: the gateway starts without it, too.
        """
        try:
            await self._index.check()
        except NoVectorSets as error:
            message = f"the cache's store has no vector sets ({error})"
            mend = "use Redis 8 or newer as `cache.store`, or take `semantic` out"
            raise ConfigError(
                [Problem(_place(path, key), dotted(key), message, mend) for key in self._places()]
            ) from None
        except StoreError as error:
            _log.warning("semantic_cache_not_checked", reason=str(error))

    def _places(self) -> list[KeyPath]:
        return [("models", model, "cache", "semantic") for model in self._models]

    async def close(self) -> None:
        """Let go of connections, when what is being learned is."""
        await self.learner.settled()
        await self._embedder.close()
        await self._index.close()


def _place(path: Path, key: KeyPath) -> str:
    """Where it stands, as far as the file can still be read."""
    try:
        return configfile.read(path, os.environ, deferred=DEFERRED).place(key)
    except ConfigError:
        return str(path)
