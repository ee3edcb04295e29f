"""Outcomes as tables."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.faults import report
from tests.faults.outcome import Outcome, Seen
from tests.faults.table import Case, Received, table

FELL_OVER = Outcome(Seen("b", "b", 200, 2, "", "", whole=True, cut=False), Received(1, 1), 0.02)
REFUSED = Outcome(Seen("", "", 503, 2, "provider_unreachable", "", whole=True, cut=False), Received(), 0.1)


def case(name: str) -> Case:
    return next(one for one in table() if one.name == name)


RESULTS = [
    (case("refuse-1-plain"), REFUSED),
    (case("status_500-2-plain"), FELL_OVER),
    (case("status_500-2-stream"), replace(FELL_OVER, seconds=0.6)),
    (case("status_503-2-plain"), replace(FELL_OVER, received=Received(1, 0, 1))),
]


def test_only_what_differs_counts() -> None:
    assert report.failed(RESULTS) == 1
    assert report.failed(RESULTS[:3]) == 0


def test_the_terminals_table_says_what_differs() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.terminal(RESULTS))
    text = console.export_text()
    assert "503, provider_unreachable" in text
    assert "received: 1 0 1, not 1 1 0" in text


def test_the_documents_table_puts_like_with_like() -> None:
    assert report.markdown(RESULTS).splitlines()[2:] == [
        "| refuse | one | plain | the gateway | 2 | at once | 503, provider_unreachable | 0 0 0 |",
        "| status 500 | two | both | b | 2 | at once | 200 | 1 1 0 |",
        "| status 503 | two | plain | b | 2 | at once | 200 | 1 0 1 |",
    ]


def test_it_is_written_between_the_markers(tmp_path: Path) -> None:
    document = tmp_path / "fallback.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.write(document, RESULTS)
    text = document.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n\n| fault |")
    assert text.endswith(f"| 1 0 1 |\n\n{report.END}\nafter\n")
    assert "old" not in text
    document.write_text("no markers")
    with pytest.raises(ValueError, match="are missing"):
        report.write(document, RESULTS)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen("", "", 0, 0, "", "", whole=False, cut=True), "no answer"),
        (Seen("a", "a", 200, 1, "", "", whole=False, cut=True), "200, broken off"),
        (Seen("a", "a", 200, 1, "", "", whole=False, cut=False), "200, complete, not all JSON"),
        (Seen("a", "a", 429, 1, "", "7", whole=True, cut=False), "429, retry-after 7"),
    ],
)
def test_what_the_client_saw_in_words(seen: Seen, words: str) -> None:
    assert report.client_saw(Outcome(seen, Received(), 0)) == words
