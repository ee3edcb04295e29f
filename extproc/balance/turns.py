"""Whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence


class Turns:
    """Smooth weighted round robin, as nginx does it: of weights 3 and 1 every fourth turn is the other's.

    https://github.com/nginx/nginx/commit/52327e0627f49dbda1e8db695e63a4b0af4448b1
    """

    __slots__ = ("_credit",)

    def __init__(self) -> None:
        self._credit: dict[int, int] = {}

    def take(self, group: Sequence[int], weights: Sequence[int]) -> list[int]:
        """`group` (indexes into `weights`) with the one whose turn it is first, then those whose turn is nearest."""
        credit, total = self._credit, 0
        for index in group:
            credit[index] = credit.get(index, 0) + weights[index]
            total += weights[index]
        order = sorted(group, key=credit.__getitem__, reverse=True)
        credit[order[0]] -= total
        return order
