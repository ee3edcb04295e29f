"""What a source gave, to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ratelimit.http import rlconfig
from ratelimit.rules import RuleSet
from ratelimit.sources import Source
from sidecar.errors import ConfigError


class Recorder:
    """Everything that a source gave or refused, in order."""

    def __init__(self) -> None:
        self._came: asyncio.Queue[RuleSet | ConfigError] = asyncio.Queue()

    async def next(self) -> RuleSet | ConfigError:
        """What comes next."""
        async with asyncio.timeout(10):
            return await self._came.get()

    async def rules(self) -> list[str]:
        """The next rules, as `key: amount`; what is refused first fails the test."""
        came = await self.next()
        assert isinstance(came, RuleSet), came
        return [f"{line.partition(':')[0]}: {line.split('=')[2].partition(',')[0]}" for line in rlconfig.lines(came)]

    async def refused(self) -> str:
        """Why the next rules were refused."""
        came = await self.next()
        assert isinstance(came, ConfigError), came
        return str(came)

    def nothing(self) -> bool:
        """Nothing has come."""
        return self._came.empty()


@asynccontextmanager
async def running(source: Source) -> AsyncIterator[Recorder]:
    """The source while it runs."""
    recorder = Recorder()
    task = asyncio.create_task(source.run(recorder._came.put_nowait, recorder._came.put_nowait))
    try:
        yield recorder
    finally:
        assert not task.done()
        task.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(task, return_exceptions=True)
