"""YAML as it is written, and the rows of a report."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headgate.importing.document import Document
from headgate.importing.report import Entry, Outcome, leaves, rows

_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20))
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
)


@pytest.mark.parametrize("value", ["\xa0", [{"\xa0": "\xa0"}], {"a": [{"b": ["c\xa0"] * 40}]}])
def test_white_space_that_is_no_space(value: Any) -> None:
    assert yaml.safe_load(Document({"k": value}).text()) == {"k": value}


@given(st.dictionaries(st.text(max_size=8), _VALUES, max_size=5), st.data())
def test_what_is_written_reads_as_it_was_whatever_is_said_beside_it(
    values: dict[str, Any], data: st.DataObject
) -> None:
    document = Document(values)
    paths = [(key,) for key in values] + list(leaves(values))
    for path in data.draw(st.lists(st.sampled_from(paths), max_size=3)) if paths else ():
        document.note(path, "a note # with a sign")
    assert yaml.safe_load(document.text()) == (values or None)


def test_comments_stand_above_what_they_are_about() -> None:
    document = Document({"a": {"b": {"c": 1}}, "list": [{"x": 1, "y": "z" * 120}]}, header=["top"])
    document.note(("a", "b", "c"), "about c")
    document.note(("list", 0), "about the first")
    assert document.text().splitlines() == [
        "# top",
        "a:",
        "  b:",
        "    # about c",
        "    c: 1",
        "list:",
        "  # about the first",
        "  - x: 1",
        f"    y: {'z' * 120}",
    ]


def test_entries_that_say_the_same_share_a_row() -> None:
    entries = tuple(Entry(("a", index, "b"), index + 1, Outcome.KEPT, "same") for index in range(3))
    (row,) = rows(entries)
    assert (row.key, row.lines) == ("a.*.b", (1, 2, 3))
    assert rows(entries[:1])[0].key == "a.0.b"
