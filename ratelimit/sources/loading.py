"""Building rules beside a service that decides."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

from ratelimit.rules import RuleSet


async def loaded(build: Callable[[], RuleSet]) -> RuleSet:
    """What `build` returns, made in a thread of its own. Raises what it raises.

    Meanwhile the garbage collector rests. Rules are many small objects that all stay: looking through them again and
    again would stop every decision for as long, and take most of the load's time.
    """
    resting = gc.isenabled()
    gc.disable()
    try:
        return await asyncio.to_thread(build)
    finally:
        if resting:
            gc.enable()
