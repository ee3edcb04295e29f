"""How long a server that stops waits: for calls that have an end of their own, and for the last words of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sidecar.waiting import set_within

LAST_WORDS_SECONDS = 1.5  # Envoy writes its access log once a second
_LOOK_SECONDS = 0.05


async def until_over(works: Callable[[], bool], over: asyncio.Event, grace: float) -> None:
    """Return when `over` is set, when `works` has said no for `LAST_WORDS_SECONDS`, or after `grace` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + grace
    worked = loop.time()
    while not over.is_set():
        now = loop.time()
        if works():
            worked = now
        if now >= end or now - worked >= LAST_WORDS_SECONDS:
            return
        await set_within(over, min(_LOOK_SECONDS, end - now))
