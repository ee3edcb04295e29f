"""Rules from a directory, laid out and named as envoyproxy/ratelimit expects it, read again when it changes.

Two layouts. With `watch_root` the root is usually a symbolic link that a deployment swaps:

    <root>/<subdirectory>/config.yaml-of-another-program     not ours
    <root>/<subdirectory>/<app>/mesh.yaml                    named `<app>.mesh.yaml`

Without it `<root>/<subdirectory>/<app>/` is ours alone, which is how a Kubernetes ConfigMap is mounted, and the same
file is named `mesh.yaml`. Folders in it are read, too: `team/a.yaml` is named `team.a.yaml`. Whatever a file's ending
is, it is a rule file.

Names that begin with two dots are never read: Kubernetes keeps a volume's versions there, and reading them would find
every domain twice.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from ratelimit import settings
from ratelimit.rules import RuleSet
from ratelimit.settings import RuleFile
from ratelimit.sources import Refuse, Take
from ratelimit.sources.loading import loaded
from ratelimit.sources.watching import CHECK_EVERY, Places, Watch, places_of
from sidecar.errors import ConfigError, Problem

_log = structlog.get_logger("rules")

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_BYTES = 16 * 1024 * 1024  # of all files together
MAX_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Directory:
    """Where the rule files are (see the module's text). With `merge` several files may hold the same domain."""

    root: Path
    subdirectory: str = ""
    app: str = "config"
    watch_root: bool = True
    ignore_dot_files: bool = False
    merge: bool = False

    @property
    def folder(self) -> Path:
        """What files are named after."""
        folder = self.root / self.subdirectory
        return folder if self.watch_root else folder / self.app

    @property
    def prefix(self) -> str:
        """What the names of our files begin with."""
        return f"{self.app}." if self.watch_root else ""


class _Found(NamedTuple):
    """A rule file: its name, and what changes when it does."""

    name: str
    path: Path
    stamp: tuple[int, ...]
    size: int


def load(directory: Directory) -> RuleSet:
    """The rules of every file, all or nothing.

    Raises `ConfigError` for a folder or file that cannot be read, is too large, or holds what is no rule file.
    """
    return _build(directory, _find(directory))


def _build(directory: Directory, found: list[_Found]) -> RuleSet:
    return settings.build([RuleFile(one.name, _read(one)) for one in found], merge=directory.merge)


def _find(directory: Directory) -> list[_Found]:
    """Every rule file, by name. Raises `ConfigError` when there is no such folder, or too much in it."""
    found: list[_Found] = []
    total = 0
    for path, name in _walk(directory):
        if not name.startswith(directory.prefix):
            continue
        try:
            status = path.stat()
        except OSError as error:
            raise _error(name, f"cannot be read: {error.strerror}", "mend or remove it") from error
        if not stat.S_ISREG(status.st_mode):
            continue
        total += status.st_size
        if status.st_size > MAX_FILE_BYTES:
            raise _error(name, f"is larger than {MAX_FILE_BYTES} bytes", "split it, with MERGE_DOMAIN_CONFIG=true")
        if total > MAX_BYTES or len(found) >= MAX_FILES:
            where = str(directory.folder)
            raise _error(where, f"holds more than {MAX_FILES} files or {MAX_BYTES} bytes", "is it the right folder?")
        found.append(
            _Found(name, path, (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size), status.st_size)
        )
    return sorted(found)


def _walk(directory: Directory) -> Iterator[tuple[Path, str]]:
    """Paths and names. Links to folders are not followed, so that there is no circle."""
    folder = directory.folder

    def failed(error: OSError) -> None:
        raise _error(
            str(error.filename), f"cannot be read: {error.strerror}", "check the RUNTIME_ variables"
        ) from error

    hidden = "." if directory.ignore_dot_files else ".."
    for here, folders, files in os.walk(folder, onerror=failed):
        folders[:] = [name for name in folders if not name.startswith(hidden)]
        if Path(here) == folder:  # what others keep there is nothing to us, not even when it cannot be read
            folders[:] = [name for name in folders if f"{name}.".startswith(directory.prefix)]
        for name in files:
            if not name.startswith(hidden):
                path = Path(here, name)
                yield path, ".".join(path.relative_to(folder).parts)


def _read(one: _Found) -> str:
    try:
        with one.path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise _error(one.name, f"is larger than {MAX_FILE_BYTES} bytes")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise _error(one.name, f"cannot be read: {error.strerror}", "mend or remove it") from error
    except UnicodeDecodeError as error:
        raise _error(one.name, f"error loading config file: is not UTF-8 text (byte {error.start})") from error


def _error(name: str, message: str, mend: str = "") -> ConfigError:
    return ConfigError([Problem(name, "", message, mend)])


class DirectorySource:
    """Loads the directory, and again whenever a file comes, goes or changes.

    Files are read and rules are built in a thread of their own, so that decisions go on.
    """

    def __init__(self, directory: Directory, *, check_every: float = CHECK_EVERY) -> None:
        self._directory = directory
        self._watch = Watch(self._places, self._look, check_every)

    def reload(self) -> None:
        """Load at once, changed or not."""
        self._watch.look_again()

    async def run(self, take: Take, refuse: Refuse) -> None:
        """See `Source`. A folder that is not there yet is refused, and taken when it comes."""
        async with aclosing(self._watch.changes()) as changes:
            async for found in changes:
                await self._load(found, take, refuse)

    def _look(self) -> tuple[list[_Found] | ConfigError, object]:
        try:
            found = _find(self._directory)
        except ConfigError as error:
            return error, str(error)
        return found, tuple((one.name, one.stamp) for one in found)

    async def _load(self, found: list[_Found] | ConfigError, take: Take, refuse: Refuse) -> None:
        try:
            if isinstance(found, ConfigError):
                raise found
            rules = await loaded(partial(_build, self._directory, found))
        except ConfigError as error:
            refuse(error)
        else:
            if not rules.domains:
                _log.warning("rules_empty", folder=str(self._directory.folder))
            take(rules)

    def _places(self) -> Places:
        return places_of(self._directory.folder, self._directory.root, deep=True)
