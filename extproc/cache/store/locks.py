"""Who leads a key among all replicas: a lock in Redis, with a fencing token.

A lock ends by itself when its leader is gone. A leader that was only away, and wakes up after another has led, has the
smaller token: its value is refused (see land.lua, and `RedisStore.put`).

Weakness: a failover that loses the lock, or an answer to `acquire` that comes too late to be heard, costs one request
more to the provider, or a lock's life of waiting. It never costs a wrong value.
"""

from __future__ import annotations

from collections.abc import Callable

from extproc.cache.store.names import Names
from extproc.cache.store.script import milliseconds, read, run
from sidecar.errors import StoreError
from sidecar.redis import Client
from sidecar.redis.request import Command

ALONE = -2  # the last answer could not be shared
THERE = -1  # there is a value
TAKEN = 0  # another leads

_ACQUIRE, _RENEW, _RELEASE = read("acquire"), read("renew"), read("release")
_FENCE_MS = 3_600_000  # far longer than any leader is away


class Locks:
    """Locks that live for `seconds` unless they are renewed. The client is that of the store, which closes it.

    For `alone` seconds after an answer that could not be shared nobody leads: longer than who waits pauses.
    """

    def __init__(self, client: Client, names: Names | None = None, *, seconds: float = 5.0, alone: float = 1.0) -> None:
        self._client = client
        self._names = names or Names()
        self._life = milliseconds(seconds)
        self._alone = milliseconds(alone)
        self.seconds = seconds

    def acquire(self, key: bytes) -> Command:
        """Ask to lead: `THERE`, `ALONE`, `TAKEN` or a token. Raises `StoreError` when it is not sent."""
        names = self._names
        keys = [names.value(key), names.lock(key), names.fence(key)]
        return run(self._client, _ACQUIRE, keys, self._life, _FENCE_MS)

    def renew(self, key: bytes, token: int, lost: Callable[[], None]) -> None:
        """Keep the lock. Never waits; `lost` is called when another has led since, not when Redis fails."""

        def heard(request: Command) -> None:
            if _reply(request) == 0:
                lost()

        keys = [self._names.lock(key), self._names.fence(key)]
        try:
            request = run(self._client, _RENEW, keys, token, self._life)
        except StoreError:
            return
        request.add_done_callback(heard)

    def release(self, key: bytes, token: int, *, alone: bool = False) -> None:
        """Give the lock back; `alone`: nobody is to lead for a while. Never waits; without Redis it ends by itself."""
        try:
            request = run(self._client, _RELEASE, [self._names.lock(key)], token, self._alone if alone else 0)
        except StoreError:
            return
        request.add_done_callback(_reply)


def _reply(request: Command) -> object:
    """The reply, None of what failed."""
    return None if request.cancelled() or request.exception() is not None else request.result()
