"""The outcomes as a table: for the terminal, and for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from tests.faults.outcome import Outcome
from tests.faults.table import COUNTS, Case

BEGIN = "<!-- fault table: begin (python -m tests.faults --write) -->"
END = "<!-- fault table: end -->"
_AT_ONCE = 0.5
_COLUMNS = ("fault", "targets", "request", "who answered", "attempts", "after", "what the client saw", "received a b c")

Results = Sequence[tuple[Case, Outcome]]


def failed(results: Results) -> int:
    """How many cases are not as they must be."""
    return sum(bool(outcome.differences(case.expected)) for case, outcome in results)


def terminal(results: Results) -> Table:
    """The table with what differs in a last column."""
    table = Table(*_COLUMNS, "differs", title="What providers did, and what came of it", title_justify="left")
    for case, outcome in results:
        differences = outcome.differences(case.expected)
        table.add_row(*_cells(case, outcome), "\n".join(differences), style="red" if differences else None)
    return table


def markdown(results: Results) -> str:
    """The table for a document. Plain and streamed requests that came to the same share a row (with the time of the plain one)."""
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    rows: list[list[str]] = []
    for case, outcome in results:
        cells = _cells(case, outcome)
        if rows and _same(rows[-1], cells):
            rows[-1][2] = "both"
        else:
            rows.append(cells)
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def write(path: Path, results: Results) -> None:
    """Put the table between the markers of a document. Raises `ValueError` where it has none."""
    text = path.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: the lines '{BEGIN}' and '{END}' are missing")
    path.write_text(f"{head}{BEGIN}\n\n{markdown(results)}\n\n{END}{tail}", encoding="utf-8")


def _same(one: list[str], other: list[str]) -> bool:
    return one[2] != "both" and [*one[:2], *one[3:5], *one[6:]] == [*other[:2], *other[3:5], *other[6:]]


def _cells(case: Case, outcome: Outcome) -> list[str]:
    seen = outcome.seen
    return [
        case.kind.replace("_", " "),
        COUNTS[case.count - 1],
        case.shape,
        seen.served_by or ("the gateway" if seen.status else "nobody"),
        str(seen.attempts),
        "at once" if outcome.seconds < _AT_ONCE else f"{outcome.seconds:.1f} s",
        client_saw(outcome),
        str(outcome.received),
    ]


def client_saw(outcome: Outcome) -> str:
    """The answer in a few words."""
    seen = outcome.seen
    if not seen.status:
        return "no answer"
    words = [str(seen.status)]
    if seen.code:
        words.append(seen.code)
    if seen.retry_after:
        words.append(f"retry-after {seen.retry_after}")
    if seen.cut:
        words.append("broken off")
    elif not seen.whole:
        words.append("complete, not all JSON")
    return ", ".join(words)
