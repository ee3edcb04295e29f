"""The pairs that are shipped, and pairs of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate.evaluation import pairs
from headgate.evaluation.pairs import Pair


def test_what_is_shipped() -> None:
    found = pairs.shipped()
    same, other = ([one for one in found if one.same is kind] for kind in (True, False))
    assert (len(same), len(other)) == (72, 78)
    assert len({one.category for one in other}) >= 8
    for pair in found:
        assert pair.one != pair.another
    assert len({(pair.one, pair.another) for pair in found}) == len(found)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.tsv"
    path.write_text("# c\n\nsame\tx\tä?\tb\nother\ty\tc\td\n", encoding="utf-8")
    assert pairs.read(path) == [Pair(True, "x", "ä?", "b"), Pair(False, "y", "c", "d")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("same\tx\ta\n", "own.tsv:1: write same or other"),
        ("same\tx\ta\tb\nlike\tx\ta\tb\n", "own.tsv:2: write same or other"),
        ("same\tx\ta\t \n", "own.tsv:1: write same or other"),
        ("same\tx\ta\tb\n", "own.tsv: pairs of both kinds are needed"),
        ("", "own.tsv: pairs of both kinds are needed"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.tsv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        pairs.read(path)
