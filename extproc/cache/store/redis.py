"""Answers in Redis, shared by every replica: one round trip to read one.

Before a value is written its key is noted in an index for each of its tags. A value is written whole or not at all, and
always ends. What an index names may be gone; what is there is named, by this order:

    put     note in every index, wait for all of them, then write the value
    purge   delete the values that an index names, and leave their names until their time is over

A purge of everything asks no index: it looks through the names of all keys that a server has, whatever they are.

So a put that a purge comes between is found by the next purge, and one that dies half way leaves a name and no value.
Tags may be in other slots of a cluster than the value; nothing here needs more than one slot at a time.

Weakness: when Redis lets an index go (a `maxmemory-policy` that evicts, a failover before its replica had it), a purge
by tag misses what it named, until those values end: give values a life that you can bear. The names of purged values
take about 100 bytes for each tag until their time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hiredis import ReplyError

from extproc.cache.store.base import ByKeys, ByTag, CacheStats, Selection
from extproc.cache.store.names import Names
from extproc.cache.store.script import answer, milliseconds, read, run, send
from sidecar.errors import StoreError
from sidecar.redis import Client, Sender, again, pack, store_error
from sidecar.redis.request import Command, replies

_NOTE, _LAND = read("note"), read("land")
_AT_ONCE = 500  # keys in one step of a purge


class RedisStore:
    """Answers in one Redis, or one cluster. `client` is closed with the store.

    Values are large beside counters, and a reply waits for those before it: give the cache a client of its own.
    """

    def __init__(self, client: Client, names: Names | None = None) -> None:
        self._client = client
        self._names = names or Names()
        self.hits = 0
        self.misses = 0

    def get(self, key: bytes) -> _Get:
        """The value: one round trip. Raises `StoreError`: at once when nothing was sent, else when awaited."""
        request = _Get(self, self._names.value(key))
        self._client.send(request)
        return request

    async def put(
        self, key: bytes, value: bytes, ttl_seconds: float, tags: Sequence[str], token: int | None = None
    ) -> bool:
        """Keep `value`: two round trips. Raises `StoreError`: it may be kept all the same."""
        if ttl_seconds <= 0:
            return False
        life, names = milliseconds(ttl_seconds), self._names
        indexes = [names.index(tag, key) for tag in dict.fromkeys(tags)]
        await replies(run(self._client, _NOTE, [index], key, life) for index in indexes)
        place = names.value(key)
        if token is None:
            await answer(send(self._client, place, "SET", place, value, "PX", life))
            return True
        keys = [place, names.lock(key), names.fence(key)]
        return bool(await answer(run(self._client, _LAND, keys, token, value, life)))

    async def purge(self, selection: Selection) -> int:
        """Forget values, some hundreds with each step, and say how many were there."""
        if isinstance(selection, ByKeys):
            keys, gone = selection.keys, 0
            for start in range(0, len(keys), _AT_ONCE):
                gone += await self._unlink(keys[start : start + _AT_ONCE])
            return gone
        if isinstance(selection, ByTag):
            return sum([await self._walk(index) for index in self._names.indexes(selection.tag)])
        return sum([await self._sweep(server) for server in await self._client.masters()])

    def stats(self) -> CacheStats:
        """What this process has seen."""
        return CacheStats(None, None, self.hits, self.misses, None, None)

    async def ping(self) -> None:
        """Raise `StoreError` when Redis does not answer."""
        await self._client.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def _walk(self, index: str) -> int:
        """Forget what an index names: all that it named from the beginning to the end of the walk."""
        cursor, gone = b"0", 0
        while True:
            cursor, members = await answer(send(self._client, index, "ZSCAN", index, cursor, "COUNT", _AT_ONCE))
            gone += await self._unlink(members[::2])
            if cursor == b"0":
                return gone

    async def _sweep(self, server: Sender) -> int:
        """Forget every value that the server had when this began."""
        cursor, gone = b"0", 0
        while True:
            scan = Command("SCAN", cursor, "MATCH", self._names.values, "COUNT", _AT_ONCE)
            server.send(scan)
            cursor, places = await answer(scan)
            gone += await self._forget(places)
            if cursor == b"0":
                return gone

    async def _unlink(self, keys: Sequence[bytes]) -> int:
        return await self._forget([self._names.value(key) for key in keys])

    async def _forget(self, places: Sequence[str | bytes]) -> int:
        named = [place if isinstance(place, str) else place.decode() for place in places]
        return sum(await replies(send(self._client, place, "UNLINK", place) for place in named))


class _Get(asyncio.Future[bytes | None]):
    """Request and answer in one object."""

    __slots__ = ("_store", "key", "packed", "redirected")

    def __init__(self, store: RedisStore, key: str) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._store = store
        self.key = key
        self.packed = pack("GET", key)
        self.redirected = False

    def answer(self, reply: Any) -> None:
        """A value, nothing, or an error."""
        if self.done():
            return
        if isinstance(reply, ReplyError):
            self.set_exception(store_error(reply))
            return
        if reply is None:
            self._store.misses += 1
        else:
            self._store.hits += 1
        self.set_result(reply)

    def fail(self, error: StoreError) -> None:
        """Nobody is left waiting."""
        if not self.done():
            self.set_exception(again(error))
