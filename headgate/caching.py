"""The parts of the cache, as the settings have them."""

from __future__ import annotations

from collections.abc import Callable

from extproc.cache.flight import Flights
from extproc.cache.shared_flight import SharedFlights
from extproc.cache.store import CacheStore, Locks, MemoryStore, RedisStore, SealedStore
from extproc.cache.vault import Vault, parse_key
from headgate.settings import Settings
from ratelimit.storage import MEMORY
from sidecar.redis import connect


def cache_parts(settings: Settings, clock: Callable[[], float]) -> tuple[CacheStore, Flights | SharedFlights]:
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
