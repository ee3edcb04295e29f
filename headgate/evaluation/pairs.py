"""Labelled pairs of questions, read from a file of tabs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

SAME, OTHER = "same", "other"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions: whether one's answer serves the other (`same`), and what sets them apart (`category`)."""

    same: bool
    category: str
    one: str
    another: str


def shipped() -> list[Pair]:
    """The pairs that come with Headgate, in English."""
    return parse(resources.files("headgate.evaluation").joinpath("pairs.tsv").read_text(encoding="utf-8"), "pairs.tsv")


def read(path: Path) -> list[Pair]:
    """Pairs of your own. Raises `ValueError` with file and line, `OSError`."""
    return parse(path.read_text(encoding="utf-8"), path.name)


def parse(text: str, name: str) -> list[Pair]:
    """Lines of `same|other`, category, two questions, with tabs between; `#` begins a comment. Raises `ValueError`."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 4 or fields[0] not in (SAME, OTHER) or not all(fields):
            raise ValueError(f"{name}:{number}: write same or other, a category and two questions, with tabs between")
        found.append(Pair(fields[0] == SAME, fields[1], fields[2], fields[3]))
    if not {pair.same for pair in found} >= {True, False}:
        raise ValueError(f"{name}: pairs of both kinds are needed, same and other")
    return found
