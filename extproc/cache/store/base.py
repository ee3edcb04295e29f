"""What a store of cached answers must do. Keys are 32 bytes (a hash of the request), values are opaque."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class ByKeys:
    """The values of these keys."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ByTag:
    """Every value that was put with this tag, such as `model:gpt-4o`."""

    tag: str


@dataclass(frozen=True, slots=True)
class Everything:
    """Every value."""


Selection: TypeAlias = ByKeys | ByTag | Everything


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What is there now, and what has happened since the start. `bytes` include the store's own overhead.

    None is what this process cannot know: what is in a Redis that others use too. `hits` and `misses` are this
    process' own. `evictions` went for want of room, `expirations` because their time was over.
    """

    entries: int | None
    bytes: int | None
    hits: int
    misses: int
    evictions: int | None
    expirations: int | None


class CacheStore(Protocol):
    """Keeps values for a time. It may lose any of them at any moment; it never gives one back changed."""

    def get(self, key: bytes) -> bytes | Awaitable[bytes | None] | None:
        """The value, unless it has ended. Raises `StoreError`, or the awaitable does."""

    def put(
        self, key: bytes, value: bytes, ttl_seconds: float, tags: Sequence[str], token: int | None = None
    ) -> bool | Awaitable[bool]:
        """Keep `value` under `key`, in place of what was there; whether it is kept.

        `token` is that of the `Leader` whose answer it is: when another leads by now nothing is written. Few tags,
        and short ones: each costs as much as a small entry. Raises `StoreError`, or the awaitable does.
        """

    async def purge(self, selection: Selection) -> int:
        """Forget values, and say how many were there. Raises `StoreError`; some may then be gone.

        What is put while it runs may stay.
        """

    def stats(self) -> CacheStats:
        """A picture of the moment."""

    async def ping(self) -> None:
        """Raise `StoreError` when the store does not answer."""

    async def close(self) -> None:
        """Let go of connections."""
