"""A store that sees only ciphertext."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.cache.store.base import CacheStats, CacheStore, Selection
from extproc.cache.vault import Vault


class SealedStore:
    """A store around a store: every value is sealed before it is put. What cannot be opened is as good as absent.

    The inner store counts such a value as a hit. Keys and tags are not hidden.
    """

    def __init__(self, store: CacheStore, vault: Vault) -> None:
        self._store = store
        self._vault = vault

    async def get(self, key: bytes) -> bytes | None:
        """The value. Raises `StoreError`."""
        found = self._store.get(key)
        sealed = found if found is None or isinstance(found, bytes) else await found
        return None if sealed is None else self._vault.open(key, sealed)

    async def put(
        self, key: bytes, value: bytes, ttl_seconds: float, tags: Sequence[str], token: int | None = None
    ) -> bool:
        """Seal `value`, and keep it. Raises `StoreError`."""
        kept = self._store.put(key, self._vault.seal(key, value), ttl_seconds, tags, token)
        return kept if isinstance(kept, bool) else await kept

    async def purge(self, selection: Selection) -> int:
        """Forget values. Raises `StoreError`."""
        return await self._store.purge(selection)

    def stats(self) -> CacheStats:
        """The inner store's."""
        return self._store.stats()

    async def ping(self) -> None:
        """Raise `StoreError` when the store does not answer."""
        await self._store.ping()

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()
