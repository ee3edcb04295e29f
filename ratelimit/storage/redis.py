"""Counters in Redis, shared by every replica: one round trip per decision.

The counters of one slot (a tenant's RESERVE rules share one by their hash tag) are decided in one step, in one
script call. Other counters go with the same pipeline, each slot in a call of its own.

Weakness: where one call denies what another slot has already reserved, a second round trip gives that back.
In between the reservation is visible, so another request may be denied that need not be; none is let through
too much. An error in between leaves the reservation until its window ends.

A decision that fails in time may still have counted: what was sent is never sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Mapping, Sequence
from importlib import resources
from typing import Any, TypeAlias

from hiredis import ReplyError

from ratelimit.storage.base import Action, Count, Operation
from sidecar.errors import StoreError
from sidecar.redis import Client, LinkState, again, code, hash_tag, pack, store_error

_SCRIPT = resources.files("ratelimit.scripts").joinpath("fixed_window.lua").read_bytes()
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()  # Redis' name for the script

_Share: TypeAlias = Mapping[int, Operation]  # the operations of one slot, by their place in the decision


class RedisStore:
    """Counters in one Redis, or one cluster. `client` is closed with the store."""

    def __init__(self, client: Client) -> None:
        self._client = client
        client.add_prelude("SCRIPT", "LOAD", _SCRIPT)

    def apply(self, operations: Sequence[Operation], now: float) -> Awaitable[Sequence[Count]]:
        """Apply one decision. Redis keeps the time of expiry, so `now` is not sent.

        Raises `StoreError`: at once when nothing was sent, else when awaited.
        """
        del now
        if _in_one_slot(operations):
            call = _Call(self._client, operations)
            self._client.send(call)
            return call
        return self._across(_by_slot(dict(enumerate(operations))))

    async def _across(self, calls: Sequence[_Share]) -> Sequence[Count]:
        """Apply a decision whose counters are in more slots than one."""
        counts = await self._run(calls)
        back = _to_give_back(calls, counts)
        if back:
            given = await self._run(_by_slot(back))
            # A counter may have been reserved from more than once: what is left at the end is true of each.
            values = {operation.key: given[index].value for index, operation in back.items()}
            counts.update((index, Count(values[operation.key])) for index, operation in back.items())
        return [counts[index] for index in range(len(counts))]

    async def _run(self, shares: Sequence[_Share]) -> dict[int, Count]:
        calls = [_Call(self._client, tuple(share.values())) for share in shares]
        for call in calls:
            try:
                self._client.send(call)
            except StoreError as error:
                call.fail(error)
        try:
            if calls:
                await asyncio.wait(calls)  # every one has its say before one fails them all
            counts: dict[int, Count] = {}
            for share, call in zip(shares, calls, strict=True):
                counts.update(zip(share, call.result(), strict=True))
            return counts
        finally:
            for call in calls:
                call.cancel()

    async def ping(self) -> None:
        """Raise `StoreError` when Redis does not answer."""
        await self._client.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    @property
    def nodes(self) -> tuple[LinkState, ...]:
        """How each server is connected, for operators."""
        return self._client.nodes


class _Call(asyncio.Future[Sequence[Count]]):
    """The operations of one slot: request and answer in one object, because there is one per decision."""

    __slots__ = ("_client", "_operations", "_whole", "key", "packed", "redirected")

    def __init__(self, client: Client, operations: Sequence[Operation]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._client = client
        self._operations = operations
        self._whole = False  # the script itself was sent
        self.key = operations[0].key
        self.packed = _packed("EVALSHA", _SHA, operations)
        self.redirected = False

    def answer(self, reply: Any) -> None:
        """Counts, or an error. A script that Redis has lost is sent whole: this call has not run."""
        if self.done():
            return
        if reply.__class__ is list and len(reply) == 2 * len(self._operations):
            pairs = iter(reply)
            self.set_result([Count(value, over == 1) for value, over in zip(pairs, pairs, strict=True)])
        elif not isinstance(reply, ReplyError):
            self.fail(StoreError("Redis: the script's answer cannot be read", transient=False))
        elif code(reply) == "NOSCRIPT" and not self._whole:
            self._whole = True
            self.packed = _packed("EVAL", _SCRIPT, self._operations)
            try:
                self._client.send(self)
            except StoreError as error:
                self.fail(error)
        else:
            self.fail(store_error(reply))

    def fail(self, error: StoreError) -> None:
        """Nobody is left waiting."""
        if not self.done():
            self.set_exception(again(error))


def _packed(command: str, script: str | bytes, operations: Sequence[Operation]) -> bytes:
    parts: list[str | int | bytes] = [command, script, len(operations)]
    parts += [operation.key for operation in operations]
    for _, action, hits, limit, ttl, *_ in operations:
        parts += (action.value, hits, limit, ttl)
    return pack(*parts)


def _in_one_slot(operations: Sequence[Operation]) -> bool:
    return len({hash_tag(operation.key) for operation in operations}) == 1


def _by_slot(operations: _Share) -> list[_Share]:
    shares: dict[str, dict[int, Operation]] = {}
    for index, operation in operations.items():
        shares.setdefault(hash_tag(operation.key), {})[index] = operation
    return list(shares.values())


def _to_give_back(shares: Sequence[_Share], counts: Mapping[int, Count]) -> _Share:
    """What undoes the reserves of the calls that denied nothing, when another call did."""
    denied = [any(counts[index].over for index in share) for share in shares]
    if len(shares) == 1 or not any(denied):
        return {}
    return {
        index: operation._replace(action=Action.ADJUST, hits=-operation.hits)
        for share, over in zip(shares, denied, strict=True)
        if not over
        for index, operation in share.items()
        if operation.action is Action.RESERVE
    }
