"""Taking an Envoy out of service without cutting anybody off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from headgate.envoy_admin import EnvoyAdmin
from headgate.render.logs import FLUSH_SECONDS
from sidecar.waiting import set_within

_POLL_SECONDS = 0.05
_LAST_WORDS_SECONDS = FLUSH_SECONDS + 0.2  # then Envoy's access log has told of the last request, too


async def drain(
    admin: EnvoyAdmin,
    *,
    delay: float,
    timeout: float,  # noqa: ASYNC109  # of the requests, not of this call
    hurry: asyncio.Event,
    waits: Callable[[int], None] = lambda _open: None,
) -> int | None:
    """Fail Envoy's health check, wait `delay` seconds, then for open requests, at most `timeout` seconds in all.

    During the delay whoever sends requests here may learn that he should not: they are still served. `hurry` ends all
    waiting; `waits` is told once how many requests are waited for. What Envoy's access log has still to tell of the
    last ones (what they used, above all) is waited for, too. Returns how many were still open: 0 is a clean end, None
    means that Envoy no longer answers.
    """
    deadline = time.monotonic() + timeout
    await admin.post("/healthcheck/fail")
    await set_within(hurry, min(delay, timeout))
    await admin.post("/drain_listeners?graceful")
    told = False
    while True:
        active = await admin.active_requests()
        if active == 0:
            await set_within(hurry, _LAST_WORDS_SECONDS)
        if not active or hurry.is_set() or time.monotonic() >= deadline:
            return active
        if not told:
            told = True
            waits(active)
        await asyncio.sleep(_POLL_SECONDS)
