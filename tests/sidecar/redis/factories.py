"""Short ways to ask a client."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from hiredis import ReplyError

from sidecar.errors import StoreError
from sidecar.redis import Client, store_error
from sidecar.redis.request import Command


def ask(client: Client, *command: str | int, key: str = "") -> Command:
    """Send one command. Raises when it is refused at once."""
    request = Command(*command)
    request.key = key
    client.send(request)
    return request


async def outcome(client: Client, *command: str | int, key: str = "") -> Any:
    """The reply, or the `StoreError` that came in its place or that an error reply means."""
    try:
        return await ask(client, *command, key=key)
    except StoreError as error:
        return error
    except ReplyError as reply:
        return store_error(reply)


async def recovered(client: Client, *command: str | int, key: str = "", within: float = 1.0) -> Any:
    """Ask as traffic does, again and again, until there is a reply. Fails when it takes longer than `within`."""
    started = time.monotonic()
    while isinstance(reply := await outcome(client, *command, key=key), StoreError):
        assert time.monotonic() - started < within, str(reply)
        await asyncio.sleep(0.001)
    return reply
