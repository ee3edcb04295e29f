"""What goes down a connection, and who hears of its reply."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from hiredis import ReplyError, pack_command

from sidecar.errors import StoreError
from sidecar.redis.errors import again, store_error


def pack(*command: str | int | bytes) -> bytes:
    """The command in Redis' protocol."""
    packed: bytes = pack_command(command)  # type: ignore[arg-type] # its stub knows tuples of one
    return packed


class Request(Protocol):
    """One command. Exactly one of its two methods is called in time; `answer` may come late, after `fail`.

    `packed` is the command on the wire, `key` what decides its node in a cluster. `redirected` is the cluster's.
    """

    packed: bytes
    key: str
    redirected: bool

    def answer(self, reply: Any) -> None:
        """Redis' reply, or the `ReplyError` that it replied with."""

    def fail(self, error: StoreError) -> None:
        """There is no reply in time. Whether the command has run is known only if it was never sent."""


class Command(asyncio.Future[Any]):
    """A request that is awaited, for what is not hot. Its result is the reply; an error reply is raised as it is."""

    __slots__ = ("key", "packed", "redirected")

    def __init__(self, *command: str | int | bytes) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.packed = pack(*command)
        self.key = ""
        self.redirected = False

    def answer(self, reply: Any) -> None:
        """The reply, unless nobody waits any more."""
        if self.done():
            return
        if isinstance(reply, ReplyError):
            self.set_exception(reply)
        else:
            self.set_result(reply)

    def fail(self, error: StoreError) -> None:
        """The failure, unless nobody waits any more."""
        if not self.done():
            self.set_exception(again(error))


async def replies(commands: Iterable[Command]) -> list[Any]:
    """The replies to all of `commands`, which are sent as they are taken.

    Raises `StoreError` when one fails, after every one has had its say.
    """
    sent: list[Command] = []
    try:
        sent.extend(commands)
    finally:
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, ReplyError):
            raise store_error(outcome)
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes
