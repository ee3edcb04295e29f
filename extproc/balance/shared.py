"""Replicas tell each other of targets over the Redis that holds the counters.

One hash holds all notices. Every process writes what it learns, and reads all of it about twice a second. Times are
Redis' own, so the replicas' clocks do not matter.

Whether an endpoint can be reached is not shared: that is as much about this machine's network, and a replica that has
lost it must not take every target away from the others.

Weakness: what is learned here is known elsewhere up to half a second later; and while Redis is away each replica
learns for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import structlog
from hiredis import ReplyError

from extproc.balance.board import Hear
from extproc.balance.notice import Kind, Notice
from sidecar.errors import StoreError
from sidecar.redis import Client, store_error
from sidecar.redis.request import Command

_KINDS = frozenset((Kind.COOLING, Kind.EJECTED))
KEY = "{headgate:health}"
_log = structlog.get_logger("extproc")
_QUIET_SECONDS = 10.0  # between two lines about a store that keeps failing
_MOST_PENDING = 1_000  # notices that wait for Redis; the oldest are dropped
_AT_ONCE = 100  # notices in one call
_MOST_REASON = 200  # characters


def _script(name: str) -> bytes:
    return resources.files("extproc.balance.scripts").joinpath(f"{name}.lua").read_bytes()


# Sent whole each time: they are short and few, and so there is no state of Redis to keep track of.
_PUBLISH, _READ = _script("publish"), _script("read")


class Shared:
    """A `Board` over Redis. `client` is closed with it; `origin` is another word for every process, without spaces.

    `clock` is in seconds and never goes back. A background task does everything: no request waits for it.
    """

    def __init__(
        self,
        client: Client,
        hear: Hear,
        clock: Callable[[], float],
        *,
        origin: str,
        poll: float = 0.5,
        key: str = KEY,
    ) -> None:
        self._client = client
        self._hear = hear
        self._clock = clock
        self._origin = origin
        self._poll = poll
        self._key = key
        self._pending: dict[str, tuple[float, str]] = {}  # by field: when it ends, and the reason
        self._seen: dict[str, str] = {}  # values by field
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failed_at: float | None = None

    def publish(self, notices: Sequence[Notice]) -> None:
        """Tell the others, soon. Never raises and never waits."""
        now = self._clock()
        for kind, subject, seconds, reason in notices:
            if kind not in _KINDS:
                continue
            field = f"{kind} {subject}"
            waiting = self._pending.get(field)
            if waiting is None or waiting[0] < now + seconds:
                self._pending[field] = (now + seconds, reason[:_MOST_REASON])
        while len(self._pending) > _MOST_PENDING:
            del self._pending[next(iter(self._pending))]
        if self._pending:
            self._news.set()

    def start(self) -> None:
        """Begin to write and read. Needs a running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop, and close the client. What was not written is lost."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._client.close()

    async def _run(self) -> None:
        while True:
            self._news.clear()
            try:
                while await self._write():
                    pass
                await self._read()
            except StoreError as error:
                self._complain(error)
            except ReplyError as error:
                self._complain(store_error(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._news.wait()

    async def _write(self) -> bool:
        """Write some of what is pending; whether there was any. What fails stays pending until it has ended."""
        now = self._clock()
        for field in [field for field, (ends, _) in self._pending.items() if ends <= now]:
            del self._pending[field]
        some = list(self._pending.items())[:_AT_ONCE]
        if not some:
            return False
        arguments: list[str | int] = [self._origin]
        for field, (ends, reason) in some:
            arguments += (field, round((ends - now) * 1_000), reason)
        await self._call(_PUBLISH, *arguments)
        for field, notice in some:
            if self._pending.get(field) is notice:  # no newer one has come meanwhile
                del self._pending[field]
        return True

    async def _read(self) -> None:
        """Hand on what is new, once."""
        reply = await self._call(_READ)
        words = iter(reply if isinstance(reply, list) else [])
        seen = {}
        for field, left, value in zip(words, words, words, strict=False):
            name, text = _text(field), _text(value)
            seen[name] = text
            if self._seen.get(name) != text:
                self._tell(name, int(left), text)
        self._seen = seen

    def _tell(self, field: str, milliseconds: int, value: str) -> None:
        kind, _, subject = field.partition(" ")
        _, origin, reason = (*value.split(" ", 2), "", "")[:3]
        if origin != self._origin and kind in _KINDS:
            self._hear(Notice(Kind(kind), subject, milliseconds / 1_000, reason))

    async def _call(self, script: bytes, *arguments: str | int) -> Any:
        command = Command("EVAL", script, 1, self._key, *arguments)
        command.key = self._key
        self._client.send(command)
        return await command

    def _complain(self, error: StoreError) -> None:
        now = self._clock()
        if self._failed_at is None or now - self._failed_at > _QUIET_SECONDS:
            self._failed_at = now
            _log.warning("shared_health_failed", reason=str(error), transient=error.transient)


def _text(word: bytes | str) -> str:
    return word if isinstance(word, str) else word.decode("utf-8", "replace")
