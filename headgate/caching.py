"""The cache of one process, as the settings have it: its parts, its sweep, what is shown of it, and its purge."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from extproc.cache.cache import Cache
from extproc.cache.flight import Flights
from extproc.cache.shared_flight import SharedFlights
from extproc.cache.store import ByTag, CacheStore, Everything, Locks, MemoryStore, RedisStore, SealedStore, Selection
from extproc.cache.vault import Vault, parse_key
from extproc.replayer import Replays
from extproc.semantic.cache import SemanticCache
from headgate.semantic import Reporting, Semantic
from headgate.settings import Settings
from ratelimit.storage import MEMORY
from sidecar.errors import StoreError
from sidecar.metrics import Metrics
from sidecar.redis import connect

_PING_SECONDS = 0.5
_SWEEP_SECONDS = 30.0
_LOST_SECONDS = 900.0  # an answer of which nothing was heard for so long will never come


class PurgeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be forgotten (POST /cache/purge): all that one of these names, or everything."""

    key: str = ""
    model: str = ""
    team: str = ""
    tag: str = ""
    all: bool = False

    def selections(self) -> Iterator[Selection]:
        """What the store is asked to forget. A key without a team is one of its own: `team:key NAME`."""
        if self.all:
            yield Everything()
        tags = (
            f"key:{self.key}" if self.key else "",
            f"team:key {self.key}" if self.key else "",
            f"model:{self.model}" if self.model else "",
            f"team:{self.team}" if self.team else "",
            self.tag,
        )
        yield from (ByTag(tag) for tag in tags if tag)


@dataclass(frozen=True, slots=True)
class Purged:
    """The answer to a purge: an HTTP status and what to say."""

    status: int
    body: Mapping[str, Any]


class Caching:
    """Opened with the process: `start` needs a running loop, `stop` closes the store.

    `embeddings` is the socket of Envoy's listener for them.
    """

    def __init__(self, settings: Settings, observer: Reporting, worker: int, embeddings: Path) -> None:
        self._kind = settings.cache_store.partition("://")[0]
        self._encrypted = bool(settings.cache.encryption_keys)
        self._store, flights = _parts(settings, time.monotonic)
        nonce = secrets.token_hex(8)
        self.replays = Replays(time.monotonic, worker=worker, nonce=nonce) if settings.has_paced else None
        self._semantic = Semantic(settings, observer, embeddings) if settings.semantic_models else None
        self.cache = Cache(
            self._store,
            flights,
            observer if self._semantic is None else self._semantic.learner,
            time.monotonic,
            time.time,
            wait=settings.cache.wait,
            compress_from=settings.cache.compress_from,
            worker=worker,
            nonce=nonce,
        )
        self.semantic: SemanticCache | None = None
        if self._semantic is not None:
            self.semantic = self._semantic.over(self.cache, self._store)
        self._lost_after = max(_LOST_SECONDS, settings.cache.wait)
        self._sweeping: asyncio.Task[None] | None = None

    async def check(self, path: Path) -> None:
        """Raise `ConfigError` when the store cannot do what the configuration (`path`) asks of it."""
        if self._semantic is not None:
            await self._semantic.check(path)

    def start(self) -> None:
        """Give up lost answers from now on."""
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Close the store."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
        if self._semantic is not None:
            await self._semantic.close()
        await self._store.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.cache.sweep(self._lost_after)

    async def state(self) -> str:
        """How the store is, in words. Requests do without it."""
        if self._kind == "memory":
            return self._kind
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._store.ping()
        except (StoreError, TimeoutError) as error:
            return f"down ({error or 'timeout'}): providers answer everything"
        return "answers"

    def status(self, metrics: Metrics) -> Mapping[str, Any]:
        """What people see. Entries and bytes of a Redis are not known here, hits, misses and what they have saved are
        this process' own. `saved_cost` is None where no target has a price."""
        stats = self._store.stats()
        models = _by_model(metrics)
        return {
            "store": self._kind,
            "encrypted": self._encrypted,
            "entries": stats.entries,
            "bytes": stats.bytes,
            "hits": stats.hits,
            "misses": stats.misses,
            "evictions": stats.evictions,
            "expirations": stats.expirations,
            **together(list(models.values())),
            "models": models,
        }

    async def purge(self, request: bytes) -> Purged:
        """Forget what `request` (JSON) names."""
        try:
            selections = list(msgspec.json.decode(request, type=PurgeRequest).selections())
        except msgspec.MsgspecError as error:
            return Purged(400, {"error": str(error)})
        if not selections:
            return Purged(400, {"error": "nothing is named: key, model, team, tag or all"})
        try:
            return Purged(200, {"purged": sum([await self._store.purge(one) for one in selections])})
        except StoreError as error:
            return Purged(503, {"error": f"the store failed, some may be gone: {error}"})


def together(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several models, or one in several workers, have saved."""
    costs = [one["saved_cost"] for one in models if one["saved_cost"] is not None]
    return {
        "saved_tokens": sum(one["saved_tokens"] for one in models),
        "saved_cost": round(sum(costs), 6) if costs else None,
    }


def _by_model(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Hits (waited for, too), misses and what was saved, of each model that was looked for."""
    found: dict[str, dict[str, Any]] = {}
    for (model, result, _), (count,) in metrics.cache_requests.rows():
        new = {"hits": 0, "misses": 0, "saved_tokens": 0, "saved_cost": None}
        found.setdefault(model, new)["misses" if result == "miss" else "hits"] += int(count)
    for (model,), (tokens,) in metrics.cache_tokens.rows():
        found[model]["saved_tokens"] = int(tokens)
    for (model,), (cost,) in metrics.cache_cost.rows():
        found[model]["saved_cost"] = round(cost, 6)
    return found


def _parts(settings: Settings, clock: Callable[[], float]) -> tuple[CacheStore, Flights | SharedFlights]:
    """Where answers are kept, and who waits for whom."""
    if settings.cache_store == MEMORY:
        return _sealed(MemoryStore(settings.cache.max_bytes, clock), settings), Flights(clock)
    client = connect(settings.cache_store)
    store = _sealed(RedisStore(client), settings)
    return store, SharedFlights(store, Locks(client), clock)


def _sealed(store: CacheStore, settings: Settings) -> CacheStore:
    """Encrypted, where there are keys."""
    keys = [parse_key(key.get_secret_value()) for key in settings.cache.encryption_keys]
    return SealedStore(store, Vault(keys)) if keys else store
