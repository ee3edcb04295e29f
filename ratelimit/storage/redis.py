"""Counters in Redis, shared by every replica: one round trip per decision.

Atomic per slot: the counters of one tenant (RESERVE) are decided in one script call; counters in other
slots go with the same pipeline, each in a call of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, BusyLoadingError, NoScriptError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ratelimit.storage.base import Count, Operation
from sidecar.errors import StoreError

_SCRIPT = resources.files("ratelimit.scripts").joinpath("fixed_window.lua").read_bytes()
_TRANSIENT = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError, OSError)


class RedisStore:
    """Counters in one Redis. `client` is closed with the store."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._sha = ""

    async def apply(self, operations: Sequence[Operation], now: float) -> Sequence[Count]:
        """Apply one decision. Redis keeps the time of expiry, so `now` is not sent."""
        del now
        groups = _by_slot(operations)
        try:
            try:
                replies = await self._evaluate(groups, operations)
            except NoScriptError:
                self._sha = ""
                replies = await self._evaluate(groups, operations)
        except (RedisError, OSError) as error:
            raise _wrapped(error) from error
        counts: list[Count] = [Count(0)] * len(operations)
        for indexes, reply in zip(groups, replies, strict=True):
            for place, index in enumerate(indexes):
                counts[index] = Count(int(reply[2 * place]), bool(reply[2 * place + 1]))
        return counts

    async def _evaluate(self, groups: list[list[int]], operations: Sequence[Operation]) -> list[Any]:
        if not self._sha:
            self._sha = await self._client.script_load(_SCRIPT)
        if len(groups) == 1:
            return [await self._client.evalsha(self._sha, *_arguments(groups[0], operations))]
        pipeline = self._client.pipeline(transaction=False)
        for indexes in groups:
            pipeline.evalsha(self._sha, *_arguments(indexes, operations))
        return list(await pipeline.execute())

    async def ping(self) -> None:
        """Raise `StoreError` when Redis does not answer."""
        try:
            await self._client.ping()
        except (RedisError, OSError) as error:
            raise _wrapped(error) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()


def _wrapped(error: Exception) -> StoreError:
    transient = isinstance(error, _TRANSIENT) and not isinstance(error, AuthenticationError)
    return StoreError(f"Redis: {error or type(error).__name__}", transient=transient)


def _slot(key: str) -> str:
    """What decides the slot: the hash tag, or the whole key (Redis Cluster specification, hash tags)."""
    start = key.find("{")
    end = key.find("}", start + 1) if start >= 0 else -1
    return key[start + 1 : end] if end > start + 1 else key


def _by_slot(operations: Sequence[Operation]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for index, operation in enumerate(operations):
        groups.setdefault(_slot(operation.key), []).append(index)
    return list(groups.values())


def _arguments(indexes: list[int], operations: Sequence[Operation]) -> list[Any]:
    chosen = [operations[index] for index in indexes]
    keys = [operation.key for operation in chosen]
    values = [part for o in chosen for part in (o.action.value, o.hits, o.limit, o.ttl)]
    return [len(keys), *keys, *values]
