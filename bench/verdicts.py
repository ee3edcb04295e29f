"""A measured figure beside the one to reach."""

from __future__ import annotations


def verdict(what: str, seen: float, bound: float, unit: str, *, at_least: bool = False, digits: int = 1) -> str:
    """One line: `what: seen (at most bound: reached)`."""
    reached = seen >= bound if at_least else seen <= bound
    word = "at least" if at_least else "at most"
    return f"{what}: {seen:.{digits}f} {unit} ({word} {bound:g}: {'reached' if reached else 'NOT reached'})"
