"""A table of text that can be shown on a terminal and pasted into a document."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds saw: the median, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __format__(self, specification: str) -> str:
        """`median (low-high)`, each in this format."""
        middle, low, high = (format(value, specification) for value in (self.median, self.low, self.high))
        return middle if low == high else f"{middle} ({low}-{high})"


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rows under columns; the first `left` columns are words, the others numbers. `notes` follow the table."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    left: int = 2

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index < self.left else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a document."""
        marks = ["---" if index < self.left else "---:" for index in range(len(self.columns))]
        lines = [self.title, "", *("| " + " | ".join(row) + " |" for row in (self.columns, marks, *self.rows))]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"
