"""Counters in Redis, shared by every replica: one round trip per decision.

The counters of one slot (a tenant's RESERVE rules share one by their hash tag) are decided in one step, in one
script call. Other counters go with the same pipeline, each slot in a call of its own.

Weakness: where one call denies what another slot has already reserved, a second round trip gives that back.
In between the reservation is visible, so another request may be denied that need not be; none is let through
too much. An error in between leaves the reservation until its window ends.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ratelimit.storage.base import Action, Count, Operation
from sidecar.errors import StoreError

_SCRIPT = resources.files("ratelimit.scripts").joinpath("fixed_window.lua").read_bytes()
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()  # Redis' name for the script
_TRANSIENT = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, MasterDownError, ReadOnlyError, OSError)

_Call: TypeAlias = Mapping[int, Operation]  # the operations of one slot, by their place in the decision


class RedisStore:
    """Counters in one Redis. `client` is closed with the store.

    Decisions beyond the client's connections wait for one, rather than fail for want of it.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._connections = asyncio.Semaphore(client.connection_pool.max_connections)

    async def apply(self, operations: Sequence[Operation], now: float) -> Sequence[Count]:
        """Apply one decision. Redis keeps the time of expiry, so `now` is not sent."""
        del now
        calls = _by_slot(dict(enumerate(operations)))
        try:
            async with self._connections:
                counts = await self._run(calls)
                back = _to_give_back(calls, counts)
                if back:
                    given = await self._run(_by_slot(back))
                    # A counter may have been reserved from more than once: what is left at the end is true of each.
                    values = {operation.key: given[index].value for index, operation in back.items()}
                    counts.update((index, Count(values[operation.key])) for index, operation in back.items())
        except (RedisError, OSError) as error:
            raise _wrapped(error) from error
        return [counts[index] for index in range(len(operations))]

    async def _run(self, calls: Sequence[_Call]) -> dict[int, Count]:
        replies = await self._send(calls)
        missing = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            await self._client.script_load(_SCRIPT)
            # Only what was not run: the other calls have counted.
            again = await self._send([calls[place] for place in missing])
            for place, reply in zip(missing, again, strict=True):
                replies[place] = reply
        counts: dict[int, Count] = {}
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            for place, index in enumerate(call):
                counts[index] = Count(int(reply[2 * place]), bool(reply[2 * place + 1]))
        return counts

    async def _send(self, calls: Sequence[_Call]) -> list[Any]:
        """Each call's reply, or the error that Redis replied with."""
        if len(calls) == 1:
            try:
                return [await self._client.evalsha(_SHA, *_arguments(calls[0]))]
            except NoScriptError as error:
                return [error]
        pipeline = self._client.pipeline(transaction=False)
        for call in calls:
            pipeline.evalsha(_SHA, *_arguments(call))
        return list(await pipeline.execute(raise_on_error=False))

    async def ping(self) -> None:
        """Raise `StoreError` when Redis does not answer."""
        try:
            async with self._connections:
                await self._client.ping()
        except (RedisError, OSError) as error:
            raise _wrapped(error) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()


def _wrapped(error: Exception) -> StoreError:
    transient = isinstance(error, _TRANSIENT) and not isinstance(error, AuthenticationError)
    return StoreError(f"Redis: {str(error) or type(error).__name__}", transient=transient)


def _slot(key: str) -> str:
    """What decides the slot: the hash tag, or the whole key (Redis Cluster specification, hash tags)."""
    start = key.find("{")
    end = key.find("}", start + 1) if start >= 0 else -1
    return key[start + 1 : end] if end > start + 1 else key


def _by_slot(operations: _Call) -> list[_Call]:
    calls: dict[str, dict[int, Operation]] = {}
    for index, operation in operations.items():
        calls.setdefault(_slot(operation.key), {})[index] = operation
    return list(calls.values())


def _to_give_back(calls: Sequence[_Call], counts: Mapping[int, Count]) -> _Call:
    """What undoes the reserves of the calls that denied nothing, when another call did."""
    denied = [any(counts[index].over for index in call) for call in calls]
    if len(calls) == 1 or not any(denied):
        return {}
    return {
        index: operation._replace(action=Action.ADJUST, hits=-operation.hits)
        for call, over in zip(calls, denied, strict=True)
        if not over
        for index, operation in call.items()
        if operation.action is Action.RESERVE
    }


def _arguments(call: _Call) -> list[Any]:
    keys = [operation.key for operation in call.values()]
    values = [part for o in call.values() for part in (o.action.value, o.hits, o.limit, o.ttl)]
    return [len(keys), *keys, *values]
