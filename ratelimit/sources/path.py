"""Rules from one file or one folder that is named on the command line, read again when it changes."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from pathlib import Path

from ratelimit import settings
from ratelimit.sources import Refuse, Take
from ratelimit.sources.loading import loaded
from ratelimit.sources.watching import CHECK_EVERY, Places, Watch, places_of
from sidecar.errors import ConfigError


class PathSource:
    """Loads `path` at once, whenever one of its files changes, and when `reload` is called.

    With `merge` several files may hold the same domain.
    """

    def __init__(self, path: Path, *, merge: bool = False, check_every: float = CHECK_EVERY) -> None:
        self._path = path
        self._merge = merge
        self._watch = Watch(self._places, self._look, check_every)

    def reload(self) -> None:
        """Load again."""
        self._watch.look_again()

    async def run(self, take: Take, refuse: Refuse) -> None:
        """See `Source`."""
        async with aclosing(self._watch.changes()) as changes:
            async for _ in changes:
                try:
                    rules = await loaded(partial(settings.load, self._path, merge=self._merge))
                except ConfigError as error:
                    refuse(error)
                else:
                    take(rules)

    def _places(self) -> Places:
        folder = self._path if self._path.is_dir() else self._path.absolute().parent
        return places_of(folder, folder, deep=False)  # of a folder, too, only its own files are read

    def _look(self) -> tuple[None, object]:
        return None, settings.stamp(self._path)
