"""What became of every key of a file that was imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sidecar.configfile import ConfigFile, KeyPath, dotted


class Outcome(Enum):
    """What became of a key."""

    KEPT = "taken over"
    CHANGED = "changed"
    MISSING = "not supported"


@dataclass(frozen=True, slots=True)
class Entry:
    """One key (and all below it): what became of it, how or why, and what to do about it.

    Neither text ever holds a value that may be a secret.
    """

    path: KeyPath
    line: int
    outcome: Outcome
    note: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Entries that say the same of the same key, at several places of a list."""

    lines: tuple[int, ...]
    key: str
    outcome: Outcome
    note: str
    mend: str


class Ledger:
    """The keys of one file, and what was said of them so far.

    Whatever nobody mentions is in `entries` all the same, as not supported: nothing is dropped in silence.
    """

    def __init__(self, file: ConfigFile, start: KeyPath = ()) -> None:
        self._file = file
        self._start = start
        self._said: dict[Entry, None] = {}
        self._paths: set[KeyPath] = set()
        self._above: set[KeyPath] = set()

    def kept(self, path: KeyPath, note: str = "") -> None:
        """It means the same here."""
        self._say(path, Outcome.KEPT, note)

    def changed(self, path: KeyPath, note: str, mend: str = "") -> None:
        """It is there, and means something else."""
        self._say(path, Outcome.CHANGED, note, mend)

    def missing(self, path: KeyPath, note: str, mend: str = "") -> None:
        """Nothing here does that."""
        self._say(path, Outcome.MISSING, note, mend)

    def _say(self, path: KeyPath, outcome: Outcome, note: str, mend: str = "") -> None:
        self._said[Entry(path, self._line(path), outcome, note, mend)] = None
        self._paths.add(path)
        self._above.update(path[:length] for length in range(len(path)))

    def _line(self, path: KeyPath) -> int:
        return self._file.lines.get(self._file.holder((*self._start, *path)), 1)

    def mentioned(self, path: KeyPath) -> bool:
        """Whether something was said of `path`, of what holds it, or of what it holds."""
        return path in self._above or any(path[:length] in self._paths for length in range(len(path) + 1))

    def entries(self) -> tuple[Entry, ...]:
        """Everything, in the order of the file."""
        values: Any = self._file.values
        for step in self._start:
            values = values[step]
        silent = [
            Entry(path, self._line(path), Outcome.MISSING, "unknown to this import", "see docs/configuration.md")
            for path in leaves(values)
            if not self.mentioned(path)
        ]
        return tuple(sorted([*self._said, *silent], key=lambda entry: entry.line))


def leaves(values: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The path of every value that holds no further keys; a list of plain values is one."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    elif isinstance(values, list) and any(isinstance(one, dict | list) for one in values):
        for index, value in enumerate(values):
            yield from leaves(value, (*path, index))
    elif path:
        yield path


def rows(entries: tuple[Entry, ...]) -> tuple[Row, ...]:
    """Entries as a table shows them: those that only differ by their place in a list share a row."""
    found: dict[tuple[str, Outcome, str, str], list[Entry]] = {}
    for entry in entries:
        key = dotted(tuple("*" if isinstance(part, int) else part for part in entry.path))
        found.setdefault((key, entry.outcome, entry.note, entry.mend), []).append(entry)
    return tuple(
        Row(
            tuple(dict.fromkeys(entry.line for entry in same)),
            dotted(same[0].path) if len(same) == 1 else key,
            outcome,
            note,
            mend,
        )
        for (key, outcome, note, mend), same in found.items()
    )
