"""When to read rule files again: told by the system, and looked at every few seconds besides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import structlog
from watchfiles import awatch

from sidecar.waiting import set_within

T = TypeVar("T")
Places: TypeAlias = tuple[tuple[Path, bool], ...]  # folders, and whether with everything below

CHECK_EVERY = 10.0  # seconds: file systems that report no changes are looked at
_log = structlog.get_logger("rules")


def places_of(folder: Path, root: Path, *, deep: bool) -> Places:
    """What to watch: the folder itself, with all below when `deep`, and every link on the way to it from `root` on."""
    places = {(root.absolute().parent, False), (folder.absolute().parent, False)}
    if folder.is_dir():
        places.add((folder.resolve(), deep))
    return tuple(sorted((path, deep) for path, deep in places if path.is_dir()))


class Watch(Generic[T]):
    """Tells of every change. `look` gives what there is, and a stamp that changes when it does; it runs in a thread."""

    def __init__(
        self, places: Callable[[], Places], look: Callable[[], tuple[T, object]], check_every: float = CHECK_EVERY
    ) -> None:
        self._places = places
        self._look = look
        self._check_every = check_every
        self._changed = asyncio.Event()  # something may have changed
        self._asked = False  # tell in any case

    def look_again(self) -> None:
        """Tell at once, changed or not."""
        self._asked = True
        self._changed.set()

    async def changes(self) -> AsyncGenerator[T, None]:
        """What there is at first, and then after each change."""
        seen: object = None
        while True:
            places = self._places()
            async with _watched(places, self._changed):
                while places == self._places():
                    asked, self._asked = self._asked, False
                    self._changed.clear()
                    found, stamp = await asyncio.to_thread(self._look)
                    if stamp != seen or asked:
                        seen = stamp
                        yield found
                    await set_within(self._changed, self._check_every)


@asynccontextmanager
async def _watched(places: Places, changed: asyncio.Event) -> AsyncIterator[None]:
    """Set the event whenever something changes in one of the places, from the first line of the block on."""

    async def watch(path: Path, deep: bool) -> None:
        try:
            async for _ in awatch(path, recursive=deep, watch_filter=None, step=50, debounce=200):
                changed.set()
        except (OSError, RuntimeError) as error:  # it has gone, or the system's watches are used up
            _log.warning("rules_unwatched", folder=str(path), reason=str(error), every=CHECK_EVERY)

    watchers = [asyncio.create_task(watch(path, deep)) for path, deep in places]
    try:
        await asyncio.sleep(0)  # each has begun
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
