"""What the cache's keys in Redis are called.

    <prefix>:{<key in hex>}:value    a value; its lock and its fence share its slot
    <prefix>:{<key in hex>}:lock
    <prefix>:{<key in hex>}:fence
    <prefix>:index:{<shard>:<tag>}   the keys with that tag, in 16 parts

In a cluster both values and indexes are spread over all slots.
"""

from __future__ import annotations

PREFIX = "headgate:cache"
SHARDS = 16


class Names:
    """The names under one prefix, which holds no braces."""

    __slots__ = ("_prefix",)

    def __init__(self, prefix: str = PREFIX) -> None:
        self._prefix = prefix

    def value(self, key: bytes) -> str:
        return f"{self._prefix}:{{{key.hex()}}}:value"

    def lock(self, key: bytes) -> str:
        return f"{self._prefix}:{{{key.hex()}}}:lock"

    def fence(self, key: bytes) -> str:
        return f"{self._prefix}:{{{key.hex()}}}:fence"

    @property
    def values(self) -> str:
        """The pattern that all values' names have, and no others."""
        return f"{self._prefix}:{{*}}:value"

    def index(self, tag: str, key: bytes) -> str:
        """The part of the tag's index that names `key`."""
        return self._part(tag, key[0] % SHARDS)

    def indexes(self, tag: str) -> list[str]:
        """All parts of it."""
        return [self._part(tag, shard) for shard in range(SHARDS)]

    def _part(self, tag: str, shard: int) -> str:
        return f"{self._prefix}:index:{{{shard}:{tag}}}"
