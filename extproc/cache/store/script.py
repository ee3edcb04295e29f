"""Commands and scripts of the cache, and the errors that they may end with."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from importlib import resources
from typing import Any

from hiredis import ReplyError

from sidecar.redis import Client, store_error
from sidecar.redis.request import Command


def read(name: str) -> bytes:
    """A script, without its comments: it is sent whole each time, so there is no state of Redis to keep track of."""
    text = resources.files("extproc.cache.store.scripts").joinpath(f"{name}.lua").read_bytes()
    return b"\n".join(line for line in text.splitlines() if line and not line.startswith(b"--"))


def run(client: Client, script: bytes, keys: Sequence[str], *arguments: str | int | bytes) -> Command:
    """Send a script whose keys share a slot. Raises `StoreError` when it is refused: not sent."""
    return send(client, keys[0], "EVAL", script, len(keys), *keys, *arguments)


def send(client: Client, key: str, *command: str | int | bytes) -> Command:
    """Send a command to the node of `key`. Raises `StoreError` when it is refused: not sent."""
    request = Command(*command)
    request.key = key
    client.send(request)
    return request


async def answer(request: Awaitable[Any]) -> Any:
    """The reply. Raises `StoreError`."""
    try:
        return await request
    except ReplyError as reply:
        raise store_error(reply) from None


def milliseconds(seconds: float) -> int:
    """At least one, which is the shortest life that Redis knows."""
    return max(1, round(seconds * 1_000))
