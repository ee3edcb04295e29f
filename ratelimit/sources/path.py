"""Rules from one file or one folder that is named on the command line; read again when asked."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from ratelimit import settings
from ratelimit.sources import Refuse, Take
from ratelimit.sources.loading import loaded
from sidecar.errors import ConfigError


class PathSource:
    """Loads `path` at once and whenever `reload` is called. With `merge` several files may hold the same domain."""

    def __init__(self, path: Path, *, merge: bool = False) -> None:
        self._path = path
        self._merge = merge
        self._asked = asyncio.Event()
        self._asked.set()

    def reload(self) -> None:
        """Load again."""
        self._asked.set()

    async def run(self, take: Take, refuse: Refuse) -> None:
        """See `Source`."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                rules = await loaded(partial(settings.load, self._path, merge=self._merge))
            except ConfigError as error:
                refuse(error)
            else:
                take(rules)
