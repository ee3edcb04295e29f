"""Counters in Redis, shared by every replica: one round trip per decision.

A decision is one step, in one script call: fixed windows alone by the shorter script, every other mixture by the one
that knows all algorithms. In a cluster that is so for the counters of one slot (a tenant's RESERVE rules share one by
their hash tag). Other counters go with the same pipeline, each slot in a call of its own; for what that means see
ratelimit/storage/across.py.

A decision that fails in time may still have counted: what was sent is never sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Mapping, Sequence
from importlib import resources
from typing import Any

from hiredis import ReplyError

from ratelimit.algorithms.base import microseconds
from ratelimit.storage.across import Share, decide
from ratelimit.storage.base import Action, Count, Operation, are_shaped
from sidecar.errors import StoreError
from sidecar.redis import Client, LinkState, again, code, hash_tag, pack, store_error
from sidecar.redis.request import Command, replies

_FORGET_AT_ONCE = 100  # keys
_WORDS = {action: action.value for action in Action}  # an enum's own way to its value takes ten times as long


class _Script:
    """A script made of files, and Redis' name for it."""

    __slots__ = ("sha", "text")

    def __init__(self, *files: str) -> None:
        folder = resources.files("ratelimit.scripts")
        self.text = b"\n".join(folder.joinpath(f"{file}.lua").read_bytes() for file in files)
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


_WINDOWS = _Script("fixed_window")
_ALL = _Script("arithmetic", "sliding_window", "sliding_log", "token_bucket", "gcra", "decide")


class RedisStore:
    """Counters in one Redis, or one cluster. `client` is closed with the store."""

    def __init__(self, client: Client) -> None:
        self._client = client
        for script in (_WINDOWS, _ALL):
            client.add_prelude("SCRIPT", "LOAD", script.text)

    def apply(self, operations: Sequence[Operation], now: float) -> Awaitable[Sequence[Count]]:
        """Apply one decision at `now`; of fixed windows Redis itself keeps the time.

        Raises `StoreError`: at once when nothing was sent, else when awaited.
        """
        if operations and (not self._client.clustered or _in_one_slot(operations)):
            call = _Call(self._client, operations, now)
            self._client.send(call)
            return call
        return decide(operations, now, _slot, lambda shares: self._run(shares, now))

    async def _run(self, shares: Sequence[Share], now: float) -> Mapping[int, Count]:
        calls = [_Call(self._client, tuple(share.values()), now) for share in shares]
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

    async def forget(self, keys: Sequence[str]) -> None:
        """Delete counters, as if nothing had been counted. Raises `StoreError`; some may then be deleted.

        Many go in one round trip. What is large is freed by Redis in the background.
        """
        for start in range(0, len(keys), _FORGET_AT_ONCE):
            await replies(self._unlink(key) for key in keys[start : start + _FORGET_AT_ONCE])

    def _unlink(self, key: str) -> Command:
        command = Command("UNLINK", key)
        command.key = key
        self._client.send(command)
        return command

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

    __slots__ = ("_client", "_now", "_operations", "_shaped", "_whole", "key", "packed", "redirected")

    def __init__(self, client: Client, operations: Sequence[Operation], now: float) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._client = client
        self._operations = operations
        self._now = now
        self._shaped = are_shaped(operations)
        self._whole = False  # the script itself was sent
        self.key = operations[0].key
        self.packed = self._pack()
        self.redirected = False

    def answer(self, reply: Any) -> None:
        """Counts, or an error. A script that Redis has lost is sent whole: this call has not run."""
        if self.done():
            return
        if reply.__class__ is list and len(reply) == (3 if self._shaped else 2) * len(self._operations):
            words = iter(reply)
            if self._shaped:
                triples = zip(words, words, words, strict=True)
                self.set_result([Count(value, over == 1, reset) for value, over, reset in triples])
            else:
                self.set_result([Count(value, over == 1) for value, over in zip(words, words, strict=True)])
        elif not isinstance(reply, ReplyError):
            self.fail(StoreError("Redis: the script's answer cannot be read", transient=False))
        elif code(reply) == "NOSCRIPT" and not self._whole:
            self._whole = True
            self.packed = self._pack()
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

    def _pack(self) -> bytes:
        script, operations = _ALL if self._shaped else _WINDOWS, self._operations
        parts: list[str | int | bytes] = ["EVAL", script.text] if self._whole else ["EVALSHA", script.sha]
        parts.append(len(operations))
        parts += [operation.key for operation in operations]
        if not self._shaped:
            for _, action, hits, limit, ttl, _, _, _ in operations:
                parts += (_WORDS[action], hits, limit, ttl)
            return pack(*parts)
        parts.append(microseconds(self._now))
        for _, action, hits, limit, ttl, shape, at, _ in operations:
            if shape is None:
                parts += ("fixed_window", action.value, hits, limit, ttl, 0, 0)
            else:
                parts += (shape.algorithm.value, action.value, hits, limit, shape.period, shape.burst, at)
        return pack(*parts)


def _slot(operation: Operation) -> str:
    return hash_tag(operation.key)


def _in_one_slot(operations: Sequence[Operation]) -> bool:
    return len(operations) == 1 or len({hash_tag(operation.key) for operation in operations}) == 1
