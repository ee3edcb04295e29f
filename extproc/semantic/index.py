"""Vectors in Redis' vector sets (Redis 8: https://redis.io/docs/latest/develop/data-types/vector-sets/).

One set for every frame, so a search sees nothing that must not be found. Its elements are the keys of kept answers, and
end with the longest life among them; those that have ended before are passed over (FILTER) and taken out bit by bit.

Weaknesses: the search is approximate (HNSW), so the nearest may be missed; a set that is full drops any of its
vectors, not the oldest; what a purge or an eviction took out of the cache leaves its vector until that is met.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Protocol

from hiredis import ReplyError

from extproc.cache.store.script import answer, milliseconds, run, send
from sidecar.errors import StoreError
from sidecar.redis import Client
from sidecar.redis.request import replies

PREFIX = "headgate:semantic"
_AT_ONCE = 4  # the nearest of those that a search gives


@dataclass(frozen=True, slots=True)
class Near:
    """A kept answer's key, and the cosine between its question and the one that was searched for."""

    key: bytes
    similarity: float


class VectorIndex(Protocol):
    """Where vectors are kept, by place (32 bytes)."""

    async def search(self, place: bytes, vector: bytes, now: float) -> Sequence[Near]:
        """The nearest that have not ended, nearest first. Raises `StoreError`."""

    async def add(self, place: bytes, vector: bytes, key: bytes, now: float, ttl: float, most: int) -> None:
        """Keep a vector for `ttl` seconds, among at most about `most`. Raises `StoreError`."""

    async def remove(self, place: bytes, key: bytes) -> None:
        """Forget one. Raises `StoreError`."""


class NoVectorSets(StoreError):
    """The server answers, and cannot search vectors."""


class RedisIndex:
    """Vector sets of one Redis, or one cluster. `client` is closed with it."""

    def __init__(self, client: Client, prefix: str = PREFIX) -> None:
        self._client = client
        self._prefix = prefix
        text = resources.files("extproc.semantic.scripts").joinpath("tidy.lua").read_bytes()
        self._tidy = b"\n".join(line for line in text.splitlines() if line and not line.startswith(b"--"))

    def _name(self, place: bytes) -> str:
        return f"{self._prefix}:{{{place.hex()}}}"

    async def check(self) -> None:
        """Raise `NoVectorSets` when the server lacks a command, or may not be asked it; else `StoreError`."""
        name = self._name(bytes(32))
        request = send(self._client, name, *_search(name, b"\x00\x00\x80\x3f", 0.0))
        try:
            await request
        except ReplyError as reply:
            if str(reply).partition(" ")[0] in ("ERR", "NOPERM"):
                raise NoVectorSets(str(reply), transient=False) from None
            raise StoreError(f"Redis: {reply}", transient=True) from None

    async def search(self, place: bytes, vector: bytes, now: float) -> Sequence[Near]:
        """One round trip. Raises `StoreError`."""
        name = self._name(place)
        found = await answer(send(self._client, name, *_search(name, vector, now)))
        # A score is (1 + cosine) / 2.
        near = [Near(key, 2.0 * float(score) - 1.0) for key, score in zip(found[::2], found[1::2], strict=True)]
        return [one for one in near if math.isfinite(one.similarity)]

    async def add(self, place: bytes, vector: bytes, key: bytes, now: float, ttl: float, most: int) -> None:
        """Two commands in one round trip: what takes Redis long (finding neighbours) it does beside others' work (CAS),
        which a script cannot. Raises `StoreError`."""
        name = self._name(place)
        attributes = f'{{"until":{int(now + ttl)}}}'
        added = send(
            self._client, name, "VADD", name, "FP32", vector, key, "CAS", "NOQUANT", "SETATTR", attributes
        )  # fmt: skip
        tidied = run(self._client, self._tidy, [name], key, int(now), milliseconds(ttl), most)
        await replies((added, tidied))

    async def remove(self, place: bytes, key: bytes) -> None:
        """One round trip. Raises `StoreError`."""
        name = self._name(place)
        await answer(send(self._client, name, "VREM", name, key))

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


def _search(name: str, vector: bytes, now: float) -> tuple[str | int | bytes, ...]:
    wanted = f".until > {int(now)}"
    return ("VSIM", name, "FP32", vector, "WITHSCORES", "COUNT", _AT_ONCE, "FILTER", wanted)
